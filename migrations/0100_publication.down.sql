drop publication {object};
