"""What makes it fast: matrix products, the fused cross-entropy, CUDA graphs, memory, number formats."""
