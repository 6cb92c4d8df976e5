"""What the compiled steps of the recipes may cost: counted, stored, and compared."""
