"""What is in a data set: measured example by example, then summed up."""
