"""Bottleneck adapters (Houlsby et al., Parameter-Efficient Transfer Learning for NLP, 2019).

Axes: ``T`` packed tokens, ``D`` hidden.
"""

from torch import Tensor, nn
from torch.nn import functional


class ZeroLinear(nn.Linear):
    """A dense layer whose weights start as zero; the encoder's initialization knows it by its type."""

    def reset_parameters(self) -> None:
        """Weights and biases as before training."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Adapter(nn.Module):
    """Down, GELU, up, and the input added; the identity until something is learnt.

    It stands where the paper puts it: in both halves of a layer, after the dense layer and its dropout, before the
    residual is added.

    Parameters
    ----------
    hidden_size
        Width of the states.
    size
        Width of the bottleneck.
    """

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, size)
        self.up = ZeroLinear(size, hidden_size)

    def forward(self, update_TD: Tensor) -> Tensor:
        """Adapted update, ``(T, D)``."""
        return update_TD + self.up(functional.gelu(self.down(update_TD)))
