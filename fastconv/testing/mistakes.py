"""The catalogue of typical mistakes: each computes the wrong result that it leads to.

A mistake acts before the computation (it tampers with the arrays or the steps), after it (it tampers with the result),
or takes its place. So two of them can be made at once. A mistake that cannot be made in some case raises ValueError
there; one that makes no difference there gives the right result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .trials import Convolution

Before = Callable[[Convolution], Convolution]
After = Callable[[Convolution, np.ndarray], np.ndarray]


def _unchanged(c: Convolution) -> Convolution:
    return c


def _as_it_is(c: Convolution, result: np.ndarray) -> np.ndarray:
    return result


@dataclass(frozen=True)
class Mistake:
    """`name` is the diagnosis, `why` a sentence that explains it and says what would be right."""

    term: str
    name: str
    why: str
    before: Before = _unchanged
    after: After = _as_it_is
    instead: Callable[[Convolution], np.ndarray] | None = None


def result(mistakes: Sequence[Mistake], convolution: Convolution) -> np.ndarray:
    """What `mistakes`, made together, compute; they share a term and at most one takes the computation's place.

    Raises ValueError where they cannot be made.
    """
    c = convolution
    for mistake in mistakes:
        c = mistake.before(c)
    computed = [mistake.instead(c) for mistake in mistakes if mistake.instead]
    value = computed[0] if computed else c.right(mistakes[0].term)
    for mistake in mistakes:
        value = mistake.after(c, value)
    return value


# ---- before: arrays and steps tampered with


def _flip(*axes: int) -> Before:
    return lambda c: c.change(w=np.flip(c.w, axes))


def _exchange(first: int, second: int) -> Before:
    def tampered(c: Convolution) -> Convolution:
        if (first, second) == (0, 1) and c.groups > 1:
            raise ValueError("with groups the two are not alike")
        return c.change(w=c.w.swapaxes(first, second))

    return tampered


def _steps(**fields: Any) -> Before:
    """Fields replaced: by a value, or by what a function makes of the convolution."""
    return lambda c: c.change(**{name: make(c) if callable(make) else make for name, make in fields.items()})


def _pads(make: Callable[[int, int], tuple[int, int]]) -> Before:
    return lambda c: c.change(pads=(make(*c.pads[0]), make(*c.pads[1])))


def _pad_input(mode: str) -> Before:
    def tampered(c: Convolution) -> Convolution:
        image = np.pad(c.x, ((0, 0), (0, 0), *c.pads), mode=mode)  # type: ignore[call-overload]
        return c.change(x=image, pads=((0, 0), (0, 0)))

    return tampered


def _pad_as(reach: Callable[[int], tuple[int, int]]) -> Before:
    """Pads by what the kernel's length asks for, where nothing was asked for; a 1-D image gets no rows."""

    def tampered(c: Convolution) -> Convolution:
        if any(sum(pair) for pair in c.pads):
            return c
        pads = [reach(d * (k - 1)) for d, k in zip(c.dilation, c.w.shape[2:])]
        return c.change(pads=(pads[0], pads[1]))

    return tampered


def _ungrouped(pick: Callable[[Convolution], np.ndarray]) -> Before:
    """One dense kernel in which output channel k reads the input channels ``pick(c)[k]`` instead of its group's."""

    def tampered(c: Convolution) -> Convolution:
        dense = np.zeros((c.w.shape[0], c.x.shape[1], *c.w.shape[2:]))
        for k, channels in enumerate(pick(c)):
            dense[k, channels] = c.w[k]
        return c.change(w=dense, groups=1)

    return tampered


def _first_channels(c: Convolution) -> np.ndarray:
    return np.tile(np.arange(c.w.shape[1]), (c.w.shape[0], 1))


def _outputs_dealt(c: Convolution) -> np.ndarray:
    """Output channels dealt out to the groups one by one, not in blocks."""
    group = np.arange(c.w.shape[0]) % c.groups
    return group[:, None] * c.w.shape[1] + np.arange(c.w.shape[1])


def _inputs_dealt(c: Convolution) -> np.ndarray:
    group = np.arange(c.w.shape[0]) // (c.w.shape[0] // c.groups)
    return group[:, None] + c.groups * np.arange(c.w.shape[1])


def _picked_weights(pick: Callable[[Convolution], np.ndarray]) -> Callable[[Convolution], np.ndarray]:
    """The gradient of the weight with the input channels that `pick` names for each output channel."""

    def compute(c: Convolution) -> np.ndarray:
        dense = c.change(w=np.zeros((c.w.shape[0], c.x.shape[1], *c.w.shape[2:])), groups=1).grad_weight()
        return np.stack([dense[k, channels] for k, channels in enumerate(pick(c))])

    return compute


# ---- after: the result tampered with


def _times(factor: Callable[[Convolution], float]) -> After:
    return lambda c, r: r * factor(c)


def _bias_times(factor: Callable[[Convolution], float]) -> After:
    """The bias counted `factor` times; it is in the result once."""

    def tampered(c: Convolution, r: np.ndarray) -> np.ndarray:
        if c.b is None:
            return r
        return r + (factor(c) - 1) * (c.b[:, None, None] if c.b.ndim == 1 else c.b)

    return tampered


def _bias_along_positions(c: Convolution, r: np.ndarray) -> np.ndarray:
    if c.b is None or c.b.ndim == 3:
        return r
    return r - c.b[:, None, None] + c.b  # broadcasts along the last axis, or is a ValueError


def _positions(c: Convolution) -> int:
    return c.y.shape[2] * c.y.shape[3]


def _taps(c: Convolution) -> int:
    return c.w.shape[2] * c.w.shape[3]


def _shorter(c: Convolution, r: np.ndarray) -> np.ndarray:
    return r[..., slice(None) if c.x.shape[2] == 1 else slice(-1), :-1]


def _shorter_where_it_fits(c: Convolution, r: np.ndarray) -> np.ndarray:
    """A loop to L - K, not to L - K + 1: loses the last window where it ends at the end of the input."""
    room = [size + sum(pads) - reach for size, pads, reach in zip(c.x.shape[2:], c.pads, _reach(c))]
    rows, columns = (size - (left % step == 0) for size, left, step in zip(r.shape[2:], room, c.stride))
    return r[:, :, : r.shape[2] if c.x.shape[2] == 1 else rows, :columns]


def _longer(c: Convolution, r: np.ndarray) -> np.ndarray:
    return np.pad(r, ((0, 0), (0, 0), (0, int(c.x.shape[2] > 1)), (0, 1)))


def _kept_last(c: Convolution) -> np.ndarray:
    """grad_input with = where += belongs: of two windows that cover an element the last one counts."""
    one = c.change(x=np.zeros((*c.x.shape[:2], *_reach(c))), pads=((0, 0), (0, 0)))
    padded = np.zeros_like(_with_padding(c))
    for p in range(c.y.shape[2]):
        for q in range(c.y.shape[3]):
            i, j = p * c.stride[0], q * c.stride[1]
            share = one.change(y=c.y[:, :, p : p + 1, q : q + 1]).grad_input()
            window = padded[..., i : i + share.shape[2] : c.dilation[0], j : j + share.shape[3] : c.dilation[1]]
            window[...] = share[..., :: c.dilation[0], :: c.dilation[1]]
    return _cropped(padded, c.pads)


def _reach(c: Convolution) -> tuple[int, int]:
    return (c.w.shape[2] - 1) * c.dilation[0] + 1, (c.w.shape[3] - 1) * c.dilation[1] + 1


def _full_size(c: Convolution) -> np.ndarray:
    """grad_input as a full convolution of the gradient as it stands, without zeros between its elements."""
    rows, columns = _reach(c)
    size = (c.y.shape[2] + rows - 1, c.y.shape[3] + columns - 1)
    whole = c.change(x=np.zeros((*c.x.shape[:2], *size)), stride=(1, 1), pads=((0, 0), (0, 0))).grad_input()
    return _cropped(whole, c.pads)


def _cropped(image: np.ndarray, pads: Any) -> np.ndarray:
    (top, bottom), (left, right) = pads
    return image[..., top : image.shape[2] - bottom, left : image.shape[3] - right]


def _with_padding(c: Convolution) -> np.ndarray:
    """grad_input of the padded input, nothing cropped."""
    sizes = [size + sum(pads) for size, pads in zip(c.x.shape[2:], c.pads)]
    return c.change(x=np.zeros((*c.x.shape[:2], *sizes)), pads=((0, 0), (0, 0))).grad_input()


def _cropped_at(start: Callable[[tuple[int, int]], int]) -> Callable[[Convolution], np.ndarray]:
    def compute(c: Convolution) -> np.ndarray:
        padded = _with_padding(c)
        i, j = start(c.pads[0]), start(c.pads[1])
        return padded[..., i : i + c.x.shape[2], j : j + c.x.shape[3]]

    return compute


def _last_position(c: Convolution) -> np.ndarray:
    """grad_weight with = where += belongs, in the loop over the positions."""
    y = np.zeros_like(c.y)
    y[..., -1, -1] = c.y[..., -1, -1]
    return c.change(y=y).grad_weight()


def _an_image(n: int) -> Callable[[Convolution], np.ndarray]:
    return lambda c: c.change(x=c.x[[n]], y=c.y[[n]]).grad_weight()


def _by_image(c: Convolution) -> np.ndarray:
    if c.x.shape[0] == 1:
        return c.grad_weight()
    images = [c.change(x=c.x[[n]], y=c.y[[n]]).grad_weight() for n in range(c.x.shape[0])]
    return np.stack(images)


def _alike_in_every_channel(c: Convolution, r: np.ndarray) -> np.ndarray:
    return np.broadcast_to(r.sum(axis=1, keepdims=True), r.shape)


# ---- the catalogue


def _everywhere(term: str) -> list[Mistake]:
    """What can go wrong in every term."""
    loss = "" if term == "forward" else " Factors of the loss belong into grad_output, not in here."
    return [
        Mistake(term, "sign wrong", "The right numbers with the other sign.", after=_times(lambda c: -1)),
        Mistake(term, "factor 2 too much", "Each number is twice the right one." + loss, after=_times(lambda c: 2)),
        Mistake(term, "factor 1/2 too much", "Each number is half the right one." + loss, after=_times(lambda c: 0.5)),
        Mistake(
            term,
            "cut to whole numbers",
            "Fractions are lost: an array of integers holds the result, or int() or // is used on the way.",
            after=lambda c, r: np.trunc(r),
        ),
        Mistake(
            term,
            "rounded to whole numbers",
            "Fractions are lost: the result is rounded on the way.",
            after=lambda c, r: np.round(r),
        ),
    ]


def _steps_wrong(term: str) -> list[Mistake]:
    """Stride and dilation, which every term but the bias's gradient uses alike."""
    return [
        Mistake(
            term,
            "stride ignored",
            "The windows lie one element apart, whatever the stride: window i starts at i*stride.",
            before=_steps(stride=(1, 1)),
        ),
        Mistake(
            term,
            "dilation ignored",
            "The taps lie one element apart, whatever the dilation: tap k reads k*dilation after the window's start.",
            before=_steps(dilation=(1, 1)),
        ),
        Mistake(
            term,
            "stride and dilation exchanged",
            "Each is used where the other belongs: window i and tap k meet at i*stride + k*dilation.",
            before=_steps(stride=lambda c: c.dilation, dilation=lambda c: c.stride),
        ),
        Mistake(
            term,
            "dilation taken for the gap",
            "The taps lie dilation + 1 apart: dilation is the distance of two taps, not the number of zeros between.",
            before=_steps(dilation=lambda c: tuple(d + (k > 1) for d, k in zip(c.dilation, c.w.shape[2:]))),
        ),
        Mistake(
            term,
            "stride of rows and columns exchanged",
            "A pair is (rows, columns), in this order.",
            before=_steps(stride=lambda c: c.stride[::-1]),
        ),
        Mistake(
            term,
            "stride of the rows used for the columns too",
            "A pair is (rows, columns): each axis has its own.",
            before=_steps(stride=lambda c: (c.stride[0],) * 2),
        ),
        Mistake(
            term,
            "dilation of rows and columns exchanged",
            "A pair is (rows, columns), in this order.",
            before=_steps(dilation=lambda c: c.dilation[::-1]),
        ),
        Mistake(
            term,
            "padding of rows and columns exchanged",
            "A pair is (rows, columns), in this order.",
            before=_steps(pads=lambda c: c.pads[::-1]),
        ),
    ]


_FORWARD = [
    Mistake(
        "forward",
        "kernel flipped",
        "The kernel is laid on back to front, as in signal processing (np.convolve). In neural networks a convolution "
        "is a cross-correlation: y[i] = sum of w[k]*x[i + k], as np.correlate.",
        before=_flip(2, 3),
    ),
    Mistake("forward", "kernel flipped along the rows", "Top and bottom are exchanged.", before=_flip(2)),
    Mistake("forward", "kernel flipped along the columns", "Left and right are exchanged.", before=_flip(3)),
    Mistake("forward", "kernel transposed", "Rows and columns of the kernel are exchanged.", before=_exchange(2, 3)),
    Mistake("forward", "bias forgotten", "The bias is never added.", after=_bias_times(lambda c: 0)),
    Mistake("forward", "bias subtracted", "The bias has the wrong sign.", after=_bias_times(lambda c: -1)),
    Mistake(
        "forward",
        "bias added per position",
        "y + b adds the bias along the last axis, the positions. It belongs to the output channels: b[:, None] in 1-D, "
        "b[:, None, None] in 2-D.",
        after=_bias_along_positions,
    ),
    Mistake(
        "forward",
        "bias added per position",
        "The bias is added to all of y in the loop over the positions, once for each of them. Once in all is right.",
        after=_bias_times(_positions),
    ),
    Mistake(
        "forward",
        "bias added per tap",
        "The bias is inside of the sum over the kernel, so it counts once for each tap. Add it after the sum.",
        after=_bias_times(_taps),
    ),
    Mistake(
        "forward",
        "bias added per input channel",
        "The bias is inside of the sum over the input channels. Add it after the sum.",
        after=_bias_times(lambda c: c.w.shape[1]),
    ),
    Mistake(
        "forward",
        "bias added per tap and input channel",
        "The bias is inside of the sums, so it counts once for each product. Add it after them.",
        after=_bias_times(lambda c: _taps(c) * c.w.shape[1]),
    ),
    *_steps_wrong("forward"),
    Mistake(
        "forward",
        "input thinned out before the convolution",
        "x[::stride] throws away what the windows should read. The stride is the step from window to window.",
        before=lambda c: c.change(x=c.x[..., :: c.stride[0], :: c.stride[1]], stride=(1, 1)),
    ),
    Mistake("forward", "padding ignored", "No zeros are put around x.", before=_pads(lambda a, b: (0, 0))),
    Mistake(
        "forward",
        "padding before the input alone",
        "Zeros belong on both sides.",
        before=_pads(lambda a, b: (a, 0)),
    ),
    Mistake(
        "forward", "padding after the input alone", "Zeros belong on both sides.", before=_pads(lambda a, b: (0, b))
    ),
    Mistake(
        "forward",
        "all padding before the input",
        "The zeros of both sides are put before it.",
        before=_pads(lambda a, b: (a + b, 0)),
    ),
    Mistake(
        "forward",
        "all padding after the input",
        "The zeros of both sides are put after it.",
        before=_pads(lambda a, b: (0, a + b)),
    ),
    Mistake(
        "forward",
        "'same' padding on the wrong side",
        "With an even kernel one zero more goes after the input (as in torch), not before it.",
        before=_pads(lambda a, b: (b, a)),
    ),
    Mistake(
        "forward",
        "padded with the border's values",
        "np.pad(..., mode='edge') repeats the border; zeros are meant.",
        before=_pad_input("edge"),
    ),
    Mistake(
        "forward",
        "padded by reflection",
        "np.pad(..., mode='reflect') mirrors the input; zeros are meant.",
        before=_pad_input("reflect"),
    ),
    Mistake(
        "forward",
        "'full' convolution",
        "Windows that hang over both ends are counted too. With padding 0 the kernel stays inside: L - K + 1 outputs.",
        before=_pad_as(lambda reach: (reach, reach)),
    ),
    Mistake(
        "forward",
        "'same' convolution",
        "The output is as long as the input although padding is 0: L - K + 1 outputs are right.",
        before=_pad_as(lambda reach: (reach // 2, reach - reach // 2)),
    ),
    Mistake(
        "forward",
        "last output missing (off by one)",
        "There are (L + 2*padding - dilation*(K - 1) - 1)//stride + 1 windows; the + 1 is easily lost.",
        after=_shorter,
    ),
    Mistake(
        "forward",
        "last output missing (off by one)",
        "The last window starts at L + 2*padding - dilation*(K - 1) - 1, and range() stops one before its end.",
        after=_shorter_where_it_fits,
    ),
    Mistake(
        "forward",
        "one output too many (off by one)",
        "There are (L + 2*padding - dilation*(K - 1) - 1)//stride + 1 windows. The last element is a left-over zero.",
        after=_longer,
    ),
    Mistake(
        "forward",
        "groups ignored",
        "Every output channel reads the first C_in/groups input channels; group j reads the j-th block of them.",
        before=_ungrouped(_first_channels),
    ),
    Mistake(
        "forward",
        "groups mixed",
        "Output channel k belongs to group k // (C_out/groups), not to k % groups: groups are blocks.",
        before=_ungrouped(_outputs_dealt),
    ),
    Mistake(
        "forward",
        "groups mixed",
        "Group j reads the j-th block of input channels, not every groups-th channel from the j-th.",
        before=_ungrouped(_inputs_dealt),
    ),
    Mistake(
        "forward",
        "weight channels transposed",
        "w is (C_out, C_in, ...): w[k, c] leads from input channel c to output channel k.",
        before=_exchange(0, 1),
    ),
    Mistake(
        "forward",
        "first input channel alone",
        "The products of all input channels are to be added.",
        before=lambda c: c.change(w=np.concatenate([c.w[:, :1], 0 * c.w[:, 1:]], axis=1)),
    ),
    Mistake(
        "forward",
        "input channels averaged",
        "The products of all input channels are to be added, not averaged.",
        before=lambda c: c.change(w=c.w / c.w.shape[1]),
    ),
    Mistake(
        "forward",
        "averaged over the kernel",
        "mean() stands where sum() belongs.",
        before=lambda c: c.change(w=c.w / (_taps(c) * c.w.shape[1])),
    ),
    Mistake(
        "forward",
        "averaged over the taps",
        "mean() stands where sum() belongs.",
        before=lambda c: c.change(w=c.w / _taps(c)),
    ),
    Mistake(
        "forward",
        "first image alone",
        "Every image of the batch gets the first one's result.",
        before=lambda c: c.change(x=np.broadcast_to(c.x[:1], c.x.shape)),
    ),
    *_everywhere("forward"),
]

_GRAD_INPUT = [
    Mistake(
        "grad_input",
        "kernel not flipped",
        "The gradient goes back through the tap that it came by. Written as a correlation of grad_output with w, that "
        "takes the kernel back to front: grad_x[j] = sum of grad_output[j - k]*w[k].",
        before=_flip(2, 3),
    ),
    Mistake("grad_input", "kernel flipped along the rows", "Top and bottom are exchanged.", before=_flip(2)),
    Mistake("grad_input", "kernel flipped along the columns", "Left and right are exchanged.", before=_flip(3)),
    Mistake("grad_input", "kernel transposed", "Rows and columns of the kernel are exchanged.", before=_exchange(2, 3)),
    *_steps_wrong("grad_input"),
    Mistake(
        "grad_input",
        "stride ignored",
        "grad_output is used as it stands. With a stride, stride - 1 zeros belong between its elements, and zeros at "
        "the end where windows did not reach, so that grad_x has the shape of x.",
        instead=_full_size,
    ),
    Mistake(
        "grad_input",
        "padding ignored",
        "The padding's share is put on the first elements of x: element j of x is element j + padding of what the "
        "windows ran over.",
        before=_pads(lambda a, b: (0, 0)),
    ),
    Mistake(
        "grad_input",
        "padding not cropped",
        "This is the gradient of the padded input. Its borders belong to the zeros: crop them.",
        instead=_with_padding,
    ),
    Mistake(
        "grad_input",
        "padding cropped on the wrong side",
        "All of the padding is cut off before: cut padding elements from both ends.",
        instead=_cropped_at(sum),
    ),
    Mistake(
        "grad_input",
        "padding cropped on the wrong side",
        "With 'same' and an even kernel one element more is cropped after than before; here it is the other way round.",
        before=_pads(lambda a, b: (b, a)),
    ),
    Mistake(
        "grad_input",
        "assigned, not added",
        "Windows overlap: each adds (+=) its share. With = the last window alone counts.",
        instead=_kept_last,
    ),
    Mistake(
        "grad_input",
        "groups ignored",
        "Each output channel sends its gradient to the first C_in/groups input channels. Each group has its own block.",
        before=_ungrouped(_first_channels),
    ),
    Mistake(
        "grad_input",
        "groups mixed",
        "Output channel k belongs to group k // (C_out/groups), not to k % groups: groups are blocks.",
        before=_ungrouped(_outputs_dealt),
    ),
    Mistake(
        "grad_input",
        "groups mixed",
        "Group j has the j-th block of input channels, not every groups-th channel from the j-th.",
        before=_ungrouped(_inputs_dealt),
    ),
    Mistake(
        "grad_input",
        "weight channels transposed",
        "w is (C_out, C_in, ...): w[k, c] leads from output channel k back to input channel c.",
        before=_exchange(0, 1),
    ),
    Mistake(
        "grad_input",
        "averaged over the batch",
        "Each image has its own gradient; a mean over the batch belongs to the loss, that is into grad_output.",
        after=_times(lambda c: 1 / c.x.shape[0]),
    ),
    Mistake(
        "grad_input",
        "summed over the batch",
        "Each image has its own gradient.",
        after=lambda c, r: np.broadcast_to(r.sum(axis=0), r.shape),
    ),
    Mistake(
        "grad_input",
        "first output channel alone",
        "The shares of all output channels are to be added.",
        before=lambda c: c.change(y=np.concatenate([c.y[:, :1], 0 * c.y[:, 1:]], axis=1)),
    ),
    *_everywhere("grad_input"),
]

_GRAD_WEIGHT = [
    Mistake(
        "grad_weight",
        "kernel flipped",
        "The gradient is back to front: grad_w[k] = sum of grad_output[i]*x[i + k], a correlation, nothing flipped.",
        after=lambda c, r: np.flip(r, (2, 3)),
    ),
    Mistake(
        "grad_weight",
        "kernel flipped along the rows",
        "Top and bottom are exchanged.",
        after=lambda c, r: r[:, :, ::-1],
    ),
    Mistake(
        "grad_weight",
        "kernel flipped along the columns",
        "Left and right are exchanged.",
        after=lambda c, r: r[..., ::-1],
    ),
    Mistake(
        "grad_weight",
        "kernel transposed",
        "Rows and columns of the kernel are exchanged.",
        after=lambda c, r: r.swapaxes(2, 3),
    ),
    *_steps_wrong("grad_weight"),
    Mistake(
        "grad_weight",
        "padding forgotten",
        "The windows ran over the padded input: element i + k of it is element i + k - padding of x.",
        before=_pads(lambda a, b: (0, 0)),
    ),
    Mistake(
        "grad_weight",
        "padding on the wrong side",
        "With 'same' and an even kernel one zero more goes after the input, not before it.",
        before=_pads(lambda a, b: (b, a)),
    ),
    Mistake(
        "grad_weight",
        "averaged over the batch",
        "The shares of the images are added. A mean belongs to the loss, that is into grad_output.",
        after=_times(lambda c: 1 / c.x.shape[0]),
    ),
    Mistake(
        "grad_weight",
        "averaged over the positions",
        "The shares of the window positions are added, not averaged.",
        after=_times(lambda c: 1 / _positions(c)),
    ),
    Mistake(
        "grad_weight",
        "averaged over batch and positions",
        "The shares are added, not averaged.",
        after=_times(lambda c: 1 / (_positions(c) * c.x.shape[0])),
    ),
    Mistake(
        "grad_weight",
        "last image alone",
        "The shares of all images are to be added (+=, not =).",
        instead=_an_image(-1),
    ),
    Mistake("grad_weight", "first image alone", "The shares of all images are to be added.", instead=_an_image(0)),
    Mistake(
        "grad_weight",
        "not summed over the batch",
        "The result has one gradient an image; they are to be added.",
        instead=_by_image,
    ),
    Mistake(
        "grad_weight",
        "last position alone",
        "The shares of all window positions are to be added (+=, not =).",
        instead=_last_position,
    ),
    Mistake(
        "grad_weight",
        "channels transposed",
        "grad_w has the shape of w, (C_out, C_in, ...); here the two are exchanged.",
        after=lambda c, r: r.swapaxes(0, 1),
    ),
    Mistake(
        "grad_weight",
        "groups ignored",
        "Every output channel takes the first C_in/groups input channels; each group has its own block.",
        instead=_picked_weights(_first_channels),
    ),
    Mistake(
        "grad_weight",
        "groups mixed",
        "Output channel k belongs to group k // (C_out/groups), not to k % groups: groups are blocks.",
        instead=_picked_weights(_outputs_dealt),
    ),
    Mistake(
        "grad_weight",
        "groups mixed",
        "Group j has the j-th block of input channels, not every groups-th channel from the j-th.",
        instead=_picked_weights(_inputs_dealt),
    ),
    Mistake(
        "grad_weight",
        "summed over the input channels",
        "Each input channel has its own kernel elements, and so its own gradient.",
        after=_alike_in_every_channel,
    ),
    *_everywhere("grad_weight"),
]

_GRAD_BIAS = [
    Mistake(
        "grad_bias",
        "not summed over the positions",
        "One bias serves every position of its channel, so the gradients of all positions are added.",
        after=lambda c, r: r if r.ndim == 3 else c.y.sum(axis=0),
    ),
    Mistake(
        "grad_bias",
        "not summed over the batch",
        "One bias serves every image, so the gradients of all images are added.",
        after=lambda c, r: c.y[0] if r.ndim == 3 and len(c.y) == 1 else c.y if r.ndim == 3 else c.y.sum(axis=(2, 3)),
    ),
    Mistake(
        "grad_bias",
        "not summed at all",
        "This is grad_output. One bias serves every image and position, so all of their gradients are added.",
        after=lambda c, r: c.y,
    ),
    Mistake(
        "grad_bias",
        "summed over the positions",
        "The bias is untied: each position has its own, and so its own gradient.",
        after=lambda c, r: c.y.sum(axis=(0, 2, 3)),
    ),
    Mistake(
        "grad_bias",
        "averaged over the batch",
        "The shares of the images are added. A mean belongs to the loss, that is into grad_output.",
        after=_times(lambda c: 1 / len(c.y)),
    ),
    Mistake(
        "grad_bias",
        "averaged over the positions",
        "The gradients of all positions are added, not averaged.",
        after=_times(lambda c: 1 / _positions(c)),
    ),
    Mistake(
        "grad_bias",
        "averaged over batch and positions",
        "The gradients are added, not averaged.",
        after=_times(lambda c: 1 / (_positions(c) * len(c.y))),
    ),
    Mistake(
        "grad_bias",
        "summed over the channels",
        "Each output channel has its own bias, and so its own gradient.",
        after=lambda c, r: r.sum(keepdims=True).reshape(1),
    ),
    Mistake(
        "grad_bias",
        "summed over the channels",
        "Each output channel has its own bias, and so its own gradient; here all of them get the total.",
        after=lambda c, r: np.broadcast_to(r.sum(), r.shape),
    ),
    Mistake(
        "grad_bias",
        "first image alone",
        "The gradients of all images are to be added.",
        before=lambda c: c.change(y=c.y[:1]),
    ),
    Mistake(
        "grad_bias",
        "last position alone",
        "The gradients of all positions are to be added (+=, not =).",
        after=lambda c, r: r if r.ndim == 3 else c.y[..., -1, -1].sum(axis=0),
    ),
    Mistake(
        "grad_bias",
        "multiplied by the bias",
        "y depends on b with slope 1: the gradient is that of the output alone.",
        after=lambda c, r: r if c.b is None else r * c.b,
    ),
    Mistake(
        "grad_bias",
        "counted once a tap",
        "The bias is added once to each output, not once a tap.",
        after=_times(_taps),
    ),
    *_everywhere("grad_bias"),
]

CATALOGUE = {
    "forward": tuple(_FORWARD),
    "grad_input": tuple(_GRAD_INPUT),
    "grad_weight": tuple(_GRAD_WEIGHT),
    "grad_bias": tuple(_GRAD_BIAS),
}
