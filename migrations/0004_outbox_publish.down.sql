drop function {object};
