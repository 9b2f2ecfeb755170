//! Letters back to Kafka, in order.
