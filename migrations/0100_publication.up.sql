-- Inserts alone, and partitions under their root's name. Always the last step, and always before the slot.
create publication {publication} for table {tables}
    with (publish = 'insert', publish_via_partition_root = true);
