"""Speed and memory: matrix products, the fused cross-entropy, CUDA graphs, the allocator, number formats."""
