"""How the crops of an optimiser step are dealt to devices: so many at once, so many micro-batches."""

from dataclasses import dataclass

from datamodules.errors import InputError


@dataclass(frozen=True)
class Deal:
    """``devices`` x ``batch`` x ``accumulate`` crops a step."""

    devices: int
    batch: int
    accumulate: int

    @property
    def crops(self) -> int:
        """Of an optimiser step."""
        return self.devices * self.batch * self.accumulate

    def __str__(self) -> str:
        return f"{self.crops} = {self.devices} device{'s' * (self.devices > 1)} x {self.batch} x {self.accumulate}"


def deals(crops: int, devices: int) -> list[Deal]:
    """Every way to deal ``crops`` evenly, the largest batch at once first.

    Raises:
        InputError: they cannot be dealt evenly to so many devices.
    """
    if crops < 1 or devices < 1:
        raise InputError(f"{crops} crops for {devices} devices: give 1 or more of both")
    if crops % devices:
        good = [number for number in range(1, crops + 1) if crops % number == 0]
        near = " or ".join(str(n) for n in _nearest(good, devices))
        raise InputError(
            f"{crops} crops a step cannot be dealt to {devices} devices; take {near} devices, or "
            f"{_multiples(crops, devices)} crops"
        )
    share = crops // devices
    return [Deal(devices, batch, share // batch) for batch in range(share, 0, -1) if share % batch == 0]


def deal(crops: int, devices: int, batch: int) -> Deal:
    """The way that has ``batch`` crops at once.

    Raises:
        InputError: the crops of a device are not a whole number of such micro-batches.
    """
    possible = {one.batch: one for one in deals(crops, devices)}
    if batch not in possible:
        near = " or ".join(str(n) for n in _nearest(sorted(possible), batch))
        raise InputError(
            f"{crops} crops a step on {devices} devices are {crops // devices} each, which are no whole micro-batches "
            f"of {batch}; take {near} at once"
        )
    return possible[batch]


def _nearest(good: list[int], asked: int) -> list[int]:
    """The largest below and the smallest above."""
    return [*[n for n in good if n < asked][-1:], *[n for n in good if n > asked][:1]]


def _multiples(crops: int, devices: int) -> str:
    below = crops // devices * devices
    return f"{below} or {below + devices}" if below else f"{devices}"
