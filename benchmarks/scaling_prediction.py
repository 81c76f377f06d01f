"""What the same step would take on many GPUs: a prediction from the step's shape and the GPUs' data sheet alone.

Each matrix product takes as long as its operations or as reading and writing its factors, whichever is longer (the
roofline of Williams et al. 2009); pointwise operations take as long as their kernels' launches and bytes. Ranks share
out the batch, and each sums all gradients with the others by a ring. Nothing here is measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scaling_model import ring_bytes
from shapes import UPDATES, Shape
from step_products import Product

# 1.07 billion numbers in all, of which half are the response's; batch: of a GPU.
BILLION = Shape(steps=70, batch=256, width=4096, types=32_000, tuned=10, layers=3)
GPUS = (1, 2, 4, 8, 16, 32, 64)
KERNELS = 33  # pointwise ones of a layer's time step, forward and backward, as counted in stn/lstm.py
PASSES = 3  # over what is saved: written, read by what follows, read by the backward pass
SIZE = 2  # bytes of a number in products, bfloat16
METHODS = dict(zip(UPDATES, ("STN", "Δ-STN"), strict=True))  # as labels have them


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes. The defaults are NVIDIA's data sheet of the H100 SXM, and InfiniBand NDR, a port for each GPU.

    flops: dense bfloat16. node_bandwidth, network_bandwidth: bytes/s that a GPU sends within a node (NVLink's 900 GB/s
    are both directions'), and to other nodes. attained_flops, attained_bandwidth: assumed fractions of these peaks.
    kernel_latency: seconds of a kernel that has little to do, in a CUDA graph.
    """

    flops: float = 989e12
    memory: float = 80e9
    memory_bandwidth: float = 3.35e12
    node_bandwidth: float = 450e9
    network_bandwidth: float = 50e9
    gpus_per_node: int = 8
    attained_flops: float = 0.5
    attained_bandwidth: float = 0.7
    kernel_latency: float = 2e-6


def product_seconds(product: Product, cluster: Cluster) -> float:
    """By the roofline, of all its repeats and weights."""
    factors = product.rows * product.inner + product.inner * product.columns + product.rows * product.columns
    moved = SIZE * factors * product.repeats
    seconds = product.flops / (cluster.flops * cluster.attained_flops), moved_seconds(moved, cluster)
    return product.weights * max(seconds)


def moved_seconds(moved: float, cluster: Cluster) -> float:
    """Of so many bytes, read from or written to memory."""
    return moved / (cluster.memory_bandwidth * cluster.attained_bandwidth)


@dataclass(frozen=True)
class Compute:
    """Seconds of a GPU's own work in a weight step: until the gradients are there, of which backward, and update."""

    gradients: float
    backward: float
    update: float

    @property
    def total(self) -> float:
        return self.gradients + self.update


def compute(shape: Shape, cluster: Cluster, method: str = "stn", checkpointed: bool = False) -> Compute:
    """Of a weight step of this shape. checkpointed: each layer is computed forward twice."""
    gradients = backward = weights = 0.0
    for update in UPDATES[method]:
        products = {product: product_seconds(product, cluster) for product in shape.products(update)}
        # The decoder's gradients are computed in the forward pass (stn/kernels/cross_entropy.py).
        layers = {product: seconds for product, seconds in products.items() if "decoder" not in product.name}
        forward = sum(seconds for product, seconds in layers.items() if "forward" in product.name)
        later = sum(layers.values()) - forward
        pointwise = KERNELS * shape.steps * shape.layers * cluster.kernel_latency
        pointwise += moved_seconds(PASSES * shape.saved_activations(update, SIZE), cluster)
        logits = moved_seconds(4 * SIZE * shape.tokens * shape.types, cluster)
        again = forward + pointwise / 2 if checkpointed else 0.0
        gradients += sum(products.values()) + pointwise + logits + again
        backward += later + pointwise / 2 + again
        weights += moved_seconds(4 * 4 * shape.updated(update), cluster)  # norm, gradient, weight in and out
    return Compute(gradients, backward, weights)


def all_reduce_seconds(shape: Shape, gpus: int, cluster: Cluster) -> float:
    """Of all gradients, in float32. The slowest link of the ring decides: the network, once there are several nodes."""
    link = cluster.node_bandwidth if gpus <= cluster.gpus_per_node else cluster.network_bandwidth
    return ring_bytes(gpus, 4 * shape.parameters) / (link * cluster.attained_bandwidth)


def exposed_seconds(shape: Shape, gpus: int, cluster: Cluster, backward: float) -> float:
    """Of the all-reduce, what remains beside the backward pass at best.

    The embedding's gradients, of which W' and V are complete last and W is the decoder's too, cannot begin before its
    end.
    """
    whole = all_reduce_seconds(shape, gpus, cluster)
    last = whole * 2 * shape.types * shape.width / shape.parameters
    return max(last, whole - backward)


def memory(shape: Shape, method: str = "stn", checkpointed: bool = False, states: int = 0) -> int:
    """Bytes of a GPU: weights and gradients, the optimizer's `states` for each weight, copies, activations, logits."""
    kept = 4 * (2 + states) * shape.parameters
    copies = SIZE * 16 * shape.layers * shape.width**2  # both of the layers' stacked weights, in the products' type
    saved = shape.checkpointed_activations if checkpointed else shape.saved_activations
    return kept + copies + max(saved(update, SIZE) for update in UPDATES[method]) + 2 * SIZE * shape.logits()


@dataclass(frozen=True)
class Row:
    """Of one number of GPUs: seconds of a step, its shares, and how well it scales from a single GPU."""

    gpus: int
    batch: int
    step_s: float
    compute_s: float
    all_reduce_s: float
    overlapped_step_s: float
    efficiency: float
    overlapped_efficiency: float
    memory_gb: float
    checkpointed_memory_gb: float

    @property
    def share(self) -> float:
        """Of the step, the all-reduce's."""
        return self.all_reduce_s / self.step_s

    @property
    def overlapped_share(self) -> float:
        return 1 - self.compute_s / self.overlapped_step_s


def rows(
    shape: Shape, cluster: Cluster, method: str = "stn", gpus: Iterable[int] = GPUS, strong: bool = False
) -> list[Row]:
    """Weak scaling: the shape's batch on each GPU. Strong: that of the most GPUs in all, whatever their number."""
    gpus = sorted(gpus)
    found: list[Row] = []
    single = 0.0  # seconds of one GPU for what all do together at N GPUs
    for count in (1, *(count for count in gpus if count != 1)):
        batch = max(1, shape.batch * gpus[-1] // count) if strong else shape.batch
        local = replace(shape, batch=batch)
        own = compute(local, cluster, method)
        reduce = all_reduce_seconds(local, count, cluster)
        step = own.total + reduce
        overlapped = own.total + exposed_seconds(local, count, cluster, own.backward)
        single = single or step
        ideal = single / count if strong else single
        found.append(
            Row(
                count,
                batch,
                step,
                own.total,
                reduce,
                overlapped,
                ideal / step,
                ideal / overlapped,
                memory(local, method) / 1e9,
                memory(local, method, checkpointed=True) / 1e9,
            )
        )
    return [row for row in found if row.gpus in gpus]


def all_rows(shape: Shape, cluster: Cluster) -> dict[str, list[Row]]:
    """By what is scaled, and how it trains: both methods, weak and strong scaling."""
    return {
        f"{name}, {'strong' if strong else 'weak'} scaling": rows(shape, cluster, method, strong=strong)
        for method, name in METHODS.items()
        for strong in (False, True)
    }
