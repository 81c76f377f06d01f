"""Self-tuning twins of torch.nn's layers, which `stn.convert` puts in their places."""
