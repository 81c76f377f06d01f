"""Whether a run's hypergradients are right: measured against what training on at other hyperparameters gives."""
