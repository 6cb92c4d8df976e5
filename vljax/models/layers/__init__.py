"""The parts that encoders are built from."""
