drop table {object};
