"""What is true: values and rules without a database, a clock or a network."""
