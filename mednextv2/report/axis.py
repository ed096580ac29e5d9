"""The axis of a chart, and how wide a chart is."""

import math
from dataclasses import dataclass

#: The width of every chart; positions and heights are in this unit.
WIDTH = 400


@dataclass(frozen=True)
class Axis:
    """Values along a line, linear or as log(1 + value).

    Attributes:
        low: The first value.
        high: The last value.
        start: The position of the first value.
        end: The position of the last value.
        log: Whether the axis is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value."""
        low, high, value = (math.log1p(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return about five round values."""
        if self.log:
            return [0.0] + [v for d in range(5) for v in (10.0**d, 3 * 10.0**d) if v <= self.high]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(m for m in (1, 2, 2.5, 5, 10) if m * step * 5 >= (self.high - self.low) * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
