"""Black-box search of hyperparameters: what self-tuning is compared with. Each trial is a whole run at fixed values."""
