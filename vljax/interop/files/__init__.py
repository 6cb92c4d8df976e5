"""Files of named arrays (safetensors, npz, torch.save), read one array at a time."""
