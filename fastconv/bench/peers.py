"""The rivals: one entry of :data:`PEERS` each. To add one, write a function that prepares a row, and its entry.

Each is used as its own documentation advises someone who is after speed: inference engines get their weights as
constants, compile before the clock starts and reuse their output buffers; libraries with a functional interface get
arrays and return arrays. The entry's terms say so. None is a dependency of fastconv.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import sys
import tempfile
import timeit
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .cases import Arrays, Row
from .contenders import Contender, Prepared, Terms, Unsupported

_INFERENCE_ONLY = "an inference engine: it has no gradients"


def _only_forward(operation: str) -> None:
    if operation != "forward":
        raise Unsupported(_INFERENCE_ONLY)


def _as_plane(values: Sequence[int], first: int) -> tuple[int, int]:
    """The row's sizes, steps or pads as (height, width): a 1-D layer is a plane of one row."""
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])


def _planar(array: np.ndarray) -> np.ndarray:
    """(N, C, L) as (N, C, 1, L)."""
    return array if array.ndim == 4 else array[:, :, None, :]


def _output_padding(row: Row) -> tuple[int, ...]:
    """What a transposed convolution adds at the end of each axis to give back the input's size."""
    spatial = row.y_shape[2:]
    return tuple(
        size - ((out - 1) * stride - 2 * pad + dilation * (k - 1) + 1)
        for size, out, stride, pad, dilation, k in zip(
            row.size, spatial, row.stride, row.padding, row.dilation, row.k, strict=True
        )
    )


# ---- PyTorch


def _torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _torch(row: Row, operation: str, data: Arrays, threads: int, *, channels_last: bool = False) -> Prepared:
    import torch

    x, w, gy = (torch.from_numpy(array) for array in data)
    stride, padding, dilation = list(row.stride), list(row.padding), list(row.dilation)
    axes = row.axes
    if channels_last:
        x, w, gy = (torch.from_numpy(_planar(a)).contiguous(memory_format=torch.channels_last) for a in data)
        stride, padding, dilation = (
            list(_as_plane(values, first)) for values, first in ((stride, 1), (padding, 0), (dilation, 1))
        )
        axes = 2
    convolve = torch.nn.functional.conv1d if axes == 1 else torch.nn.functional.conv2d
    backward = torch.ops.aten.convolution_backward  # what autograd calls; torch.nn.grad is a wrapper around it
    none, groups = [0] * axes, row.groups

    def forward() -> Any:
        return convolve(x, w, None, stride, padding, dilation, groups)

    def backward_input() -> Any:
        return backward(gy, x, w, None, stride, padding, dilation, False, none, groups, [True, False, False])[0]

    def backward_weight() -> Any:
        return backward(gy, x, w, None, stride, padding, dilation, False, none, groups, [False, True, False])[1]

    run = {"forward": forward, "backward_input": backward_input, "backward_weight": backward_weight}[operation]
    shape = row.output_shape(operation)
    return Prepared(run, lambda result: result.contiguous().numpy().reshape(shape))


_fastest: dict[tuple[Row, str, int], int] = {}  # of the ways to do overlap-save, as found once


def _torch_fft(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    """Overlap-save: blocks of the input overlap by the kernel's length, so that nothing wraps around where it counts
    (Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7). Blocks of two to sixteen kernels, products
    of spectra by einsum or element by element: the fastest of them on this row, found before the clock starts."""
    if row.axes != 1 or row.stride != (1,) or row.dilation != (1,) or row.k[0] < 64:
        raise Unsupported("meant for long kernels: 1-D, stride and dilation 1, 64 taps or more")
    whole = 1 << (row.size[0] + 2 * row.padding[0] - 1).bit_length()
    sizes = {min(1 << (factor * row.k[0] - 1).bit_length(), whole) for factor in (2, 4, 8, 16)}
    ways = [
        functools.partial(_overlap_save, row, operation, data, points, by_element)
        for points in sorted(sizes)
        for by_element in (False, True)
    ]
    key = row, operation, threads
    if key not in _fastest:
        times = []
        for way in ways:
            way()
            times.append(min(timeit.repeat(way, number=1, repeat=3)))
        _fastest[key] = times.index(min(times))
    return Prepared(ways[_fastest[key]], lambda result: result.numpy())


def _overlap_save(row: Row, operation: str, data: Arrays, points: int, by_element: bool) -> Any:
    import torch

    pad_to = torch.nn.functional.pad
    x, w, gy = (torch.from_numpy(array) for array in data)
    taps, pad, length, outputs, G = row.k[0], row.padding[0], row.size[0], row.y_shape[2], row.groups
    step = points - taps + 1

    def blocks(signal: Any, before: int, count: int, size: int) -> Any:
        """(N, C, L) to the spectra of its blocks, (N, G, C/G, blocks, frequencies), the first one `before` early."""
        needed = (count - 1) * step + size
        padded = pad_to(signal, (before, max(0, needed - signal.shape[2] - before)))[..., :needed]
        cut = padded.unfold(2, size, step)
        return torch.fft.rfft(cut.reshape(signal.shape[0], G, -1, count, size), points)

    def correlate(signal: Any, kernel: Any, before: int, wanted: int) -> Any:
        """kernel (G, K/G, C/G, frequencies), conjugated where it is to slide rather than to be mirrored."""
        count = -(-wanted // step)
        spectra = blocks(signal, before, count, points)
        if by_element:
            terms = (spectra[:, :, c, None] * kernel[:, :, c, None] for c in range(kernel.shape[2]))
            product = functools.reduce(torch.Tensor.add_, terms)
        else:
            product = torch.einsum("ngcbf,gkcf->ngkbf", spectra, kernel)
        inverse = torch.fft.irfft(product, points)[..., :step]
        return inverse.reshape(row.n, -1, count * step)[..., :wanted]

    def spectrum(kernel: Any) -> Any:
        return torch.fft.rfft(kernel.reshape(G, row.c_out // G, row.c_in // G, taps), points)

    if operation == "forward":
        return correlate(x, spectrum(w).conj(), pad, outputs)
    if operation == "backward_input":
        mirrored = spectrum(w.flip(2)).conj().transpose(1, 2)
        return correlate(gy, mirrored, taps - 1 - pad, length)
    count = -(-outputs // step)
    spectra, others = blocks(x, pad, count, points), blocks(gy, 0, count, step).conj()
    if by_element:
        rows = [(spectra[:, :, c, None] * others).sum((0, 3)) for c in range(spectra.shape[2])]
        product = torch.stack(rows, 2)
    else:
        product = torch.einsum("ngcbf,ngkbf->gkcf", spectra, others)
    return torch.fft.irfft(product, points)[..., :taps].reshape(row.w_shape)


# ---- ONNX Runtime


def _onnxruntime(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    if operation == "backward_weight":
        raise Unsupported("an inference engine: ConvTranspose gives the input's gradient alone")
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    forward = operation == "forward"
    attributes: dict[str, Any] = {
        "strides": row.stride,
        "pads": row.padding * 2,
        "dilations": row.dilation,
        "group": row.groups,
    }
    if not forward:
        attributes["output_padding"] = _output_padding(row)
    source = data.x if forward else data.gy
    shape = row.output_shape(operation)
    graph = helper.make_graph(
        [helper.make_node("Conv" if forward else "ConvTranspose", ["source", "w"], ["result"], **attributes)],
        "layer",
        [helper.make_tensor_value_info("source", TensorProto.FLOAT, source.shape)],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(data.w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    result = np.empty(shape, np.float32)
    binding.bind_ortvalue_input("source", onnxruntime.OrtValue.ortvalue_from_numpy(source))
    output = onnxruntime.OrtValue.ortvalue_from_numpy(result)
    binding.bind_ortvalue_output("result", output)

    def run() -> None:
        session.run_with_iobinding(binding)

    return Prepared(run, lambda _: output.numpy())


# ---- JAX

_TOO_LONG = 10.0  # seconds of a call
_jax_threads: int | None = None  # XLA reads them once


def _jax(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    seconds = _jax_estimate(row, operation, threads)
    if seconds > _TOO_LONG:
        raise Unsupported(f"XLA computes a layer of {row.groups} groups as a dense one: about {seconds:.0f} s a call")
    return _jax_compiled(row, operation, data, threads)


@functools.cache
def _jax_estimate(row: Row, operation: str, threads: int) -> float:
    """Seconds of a call, from a layer of fewer groups: a call cannot be stopped, and some take minutes."""
    fewer = math.gcd(row.groups, 8)
    if fewer == 1 or row.groups * row.geometry.flops < 1e10:
        return 0.0
    small = replace(row, c_in=row.c_in // fewer, c_out=row.c_out // fewer, groups=row.groups // fewer)
    run = _jax_compiled(small, operation, small.arrays(), threads).run
    run()
    return min(timeit.repeat(run, number=1, repeat=3)) * fewer**2


def _jax_compiled(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    global _jax_threads
    if _jax_threads is None:
        os.environ["NPROC"] = str(threads)  # the size of XLA's pool
        if threads == 1:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        _jax_threads = threads
    if threads != _jax_threads:
        raise Unsupported(f"its pool of {_jax_threads} thread(s) cannot be changed once started: run it by itself")
    import jax

    cpu = jax.devices("cpu")[0]
    x, w, gy = (jax.device_put(array, cpu) for array in data)
    names = ("NCH", "OIH", "NCH") if row.axes == 1 else ("NCHW", "OIHW", "NCHW")

    def convolve(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            w,
            row.stride,
            [(pad, pad) for pad in row.padding],
            rhs_dilation=row.dilation,
            dimension_numbers=names,
            feature_group_count=row.groups,
        )

    if operation == "forward":
        function, arguments = jax.jit(convolve), (x, w)
    elif operation == "backward_input":
        function = jax.jit(lambda w, gy: jax.linear_transpose(lambda x: convolve(x, w), x)(gy)[0])
        arguments = (w, gy)
    else:
        function = jax.jit(lambda x, gy: jax.linear_transpose(lambda w: convolve(x, w), w)(gy)[0])
        arguments = (x, gy)
    compiled = function.lower(*arguments).compile()
    return Prepared(lambda: compiled(*arguments).block_until_ready(), np.asarray)


# ---- OpenVINO


def _openvino(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    if operation == "backward_weight":
        raise Unsupported("an inference engine: ConvolutionBackpropData gives the input's gradient alone")
    # On import it forks a process that reports usage over the network; a fork can hang where others have threads.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino import opset13 as ops

    forward = operation == "forward"
    source = data.x if forward else data.gy
    G, w = row.groups, data.w
    strides, pads, dilations = list(row.stride), list(row.padding), list(row.dilation)
    parameter = ops.parameter(source.shape, np.float32)
    if G > 1:
        w = w.reshape(G, row.c_out // G, *row.w_shape[1:])
    weight = ops.constant(w)
    if forward:
        make = ops.group_convolution if G > 1 else ops.convolution
        node = make(parameter, weight, strides, pads, pads, dilations)
    else:
        make = ops.group_convolution_backprop_data if G > 1 else ops.convolution_backprop_data
        node = make(
            parameter,
            weight,
            strides=strides,
            pads_begin=pads,
            pads_end=pads,
            dilations=dilations,
            output_padding=list(_output_padding(row)),
        )
    model = openvino.Model([node], [parameter], "layer")
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # its default on some CPUs is bfloat16
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    request.set_input_tensor(openvino.Tensor(source))
    return Prepared(request.infer, lambda _: np.array(request.get_output_tensor().data))


# ---- ncnn


def _ncnn(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    _only_forward(operation)
    import ncnn

    stride, pad, dilation, k = (
        _as_plane(values, first) for values, first in ((row.stride, 1), (row.padding, 0), (row.dilation, 1), (row.k, 1))
    )
    # The numbers are those of ncnn's own list of parameters: 0 outputs, 1/11 kernel, 2/12 dilation, 3/13 stride, ...
    numbers = {0: row.c_out, 1: k[1], 11: k[0], 2: dilation[1], 12: dilation[0], 3: stride[1], 13: stride[0],
               4: pad[1], 14: pad[0], 5: 0, 6: data.w.size}  # fmt: skip
    kind = "Convolution"
    if row.groups > 1:
        kind, numbers[7] = "ConvolutionDepthWise", row.groups
    listed = " ".join(f"{key}={value}" for key, value in numbers.items())
    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed", "use_bf16_storage", "use_bf16_packed"):
        if hasattr(net.opt, half):
            setattr(net.opt, half, False)
    net.load_param_mem(f"7767517\n2 2\nInput in 0 1 in\n{kind} conv 1 1 in out {listed}\n")
    with tempfile.TemporaryDirectory() as folder:  # four zero bytes say that what follows is plain float32
        file = Path(folder, "layer.bin")
        file.write_bytes(b"\0\0\0\0" + data.w.tobytes())
        net.load_model(str(file))
    images = [ncnn.Mat(image).clone() for image in _planar(data.x)]

    def run() -> list[Any]:
        results = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in", image)
            results.append(extractor.extract("out")[1])
        return results

    return Prepared(run, lambda results: np.stack([np.array(mat) for mat in results]).reshape(row.y_shape))


# ---- MNN


def _mnn(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    _only_forward(operation)
    import MNN
    import MNN.expr as expr

    if 1 < row.groups < row.c_in:
        raise Unsupported(
            "grouped layers that are not depthwise come out wrong when built through its Python interface"
        )
    stride, pad, dilation = (
        list(_as_plane(values, first))[::-1]  # it takes the width first
        for values, first in ((row.stride, 1), (row.padding, 0), (row.dilation, 1))
    )
    x, w = _planar(data.x), _planar(data.w)
    source = expr.placeholder(list(x.shape), expr.NCHW)
    source.name = "source"
    weight = expr.const(np.ascontiguousarray(w), list(w.shape), expr.NCHW)
    bias = expr.const(np.zeros(row.c_out, np.float32), [row.c_out], expr.NCHW)
    packed = expr.convert(source, expr.NC4HW4)
    result = expr.conv2d(packed, weight, bias, stride, pad, dilation, row.groups, expr.Padding_Mode.CAFFE)
    result = expr.convert(result, expr.NCHW)
    result.name = "result"
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "layer.mnn"))
        expr.save([result], file)
        interpreter = MNN.Interpreter(file)
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    tensor = interpreter.getSessionInput(session)
    host = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe)
    tensor.copyFrom(host)

    def run() -> None:
        interpreter.runSession(session)

    def fetch(_: Any) -> np.ndarray:
        output = interpreter.getSessionOutput(session)
        shape = output.getShape()
        target = MNN.Tensor(shape, MNN.Halide_Type_Float, np.empty(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(target)
        return np.array(target.getNumpyData()).reshape(row.y_shape)

    return Prepared(run, fetch)


# ---- LiteRT


def _litert(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    _only_forward(operation)
    from ai_edge_litert.interpreter import Interpreter

    from .litert_model import layer

    model = layer(row, data.w)
    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    interpreter.set_tensor(source, np.ascontiguousarray(_planar(data.x).transpose(0, 2, 3, 1)))
    return Prepared(
        interpreter.invoke,
        lambda _: interpreter.get_tensor(result).transpose(0, 3, 1, 2).reshape(row.y_shape),
    )


# ---- SciPy


def _signals(row: Row, data: Arrays) -> Arrays:
    if not row.one_channel or set(row.stride) != {1} or set(row.dilation) != {1}:
        raise Unsupported("one channel, stride and dilation 1 only")
    return Arrays(*(array[0, 0] for array in data))


def _scipy_oaconvolve(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    from scipy.signal import oaconvolve

    x, w, gy = _signals(row, data)
    mirror = (slice(None, None, -1),) * row.axes
    shape = row.output_shape(operation)
    if operation == "backward_weight":
        x = np.pad(x, [(pad, pad) for pad in row.padding])
        return Prepared(lambda: oaconvolve(x, gy[mirror], "valid"), lambda result: result.reshape(shape))
    if operation == "forward":
        source, kernel = x, w[mirror]
        starts: tuple[int, ...] = tuple(k - 1 - pad for k, pad in zip(row.k, row.padding))
    else:
        source, kernel, starts = gy, w, row.padding
    inside = tuple(slice(start, start + size) for start, size in zip(starts, shape[2:]))
    return Prepared(lambda: oaconvolve(source, kernel)[inside], lambda result: result.reshape(shape))


def _scipy_correlate(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    from scipy.signal import convolve, correlate

    x, w, gy = _signals(row, data)
    shape = row.output_shape(operation)
    padded = np.pad(x, [(pad, pad) for pad in row.padding])
    if operation == "backward_input":
        inside = tuple(slice(pad, pad + size) for pad, size in zip(row.padding, row.size))
        return Prepared(lambda: convolve(gy, w)[inside], lambda result: result.reshape(shape))
    kernel = w if operation == "forward" else gy
    return Prepared(lambda: correlate(padded, kernel, "valid"), lambda result: result.reshape(shape))


# ---- NumPy

_MOST_COLUMNS = 1 << 30  # bytes


def _numpy_im2col(row: Row, operation: str, data: Arrays, threads: int) -> Prepared:
    g, G = row.geometry, row.groups
    size = 4 * g.N * g.C * g.R * g.S * g.P * g.Q
    if size > _MOST_COLUMNS:
        raise Unsupported(f"its matrix of columns would take {size / 1e9:.1f} GB")
    x = data.x.reshape(g.x_shape)
    w = data.w.reshape(G, g.K // G, -1)
    gy = data.gy.reshape(g.N, G, g.K // G, g.P * g.Q)
    padded_shape = (
        g.N,
        g.C,
        max(g.H + 2 * g.pad[0], (g.P - 1) * g.stride[0] + (g.R - 1) * g.dilation[0] + 1),
        max(g.W + 2 * g.pad[1], (g.Q - 1) * g.stride[1] + (g.S - 1) * g.dilation[1] + 1),
    )
    inside = (slice(None), slice(None), slice(g.pad[0], g.pad[0] + g.H), slice(g.pad[1], g.pad[1] + g.W))

    def columns() -> np.ndarray:
        padded = np.zeros(padded_shape, np.float32)
        padded[inside] = x
        n, c, h, v = padded.strides
        windows = np.lib.stride_tricks.as_strided(
            padded,
            (g.N, g.C, g.R, g.S, g.P, g.Q),
            (n, c, h * g.dilation[0], v * g.dilation[1], h * g.stride[0], v * g.stride[1]),
            writeable=False,
        )
        return windows.reshape(g.N, G, -1, g.P * g.Q)

    def forward() -> np.ndarray:
        return w @ columns()

    def backward_weight() -> np.ndarray:
        return (gy @ columns().swapaxes(2, 3)).sum(axis=0)

    def backward_input() -> np.ndarray:
        spread = (w.swapaxes(1, 2) @ gy).reshape(g.N, g.C, g.R, g.S, g.P, g.Q)
        padded = np.zeros(padded_shape, np.float32)
        for r, s in itertools.product(range(g.R), range(g.S)):
            top, left = r * g.dilation[0], s * g.dilation[1]
            padded[
                :,
                :,
                top : top + (g.P - 1) * g.stride[0] + 1 : g.stride[0],
                left : left + (g.Q - 1) * g.stride[1] + 1 : g.stride[1],
            ] += spread[:, :, r, s]
        return padded[inside]

    run = {"forward": forward, "backward_input": backward_input, "backward_weight": backward_weight}[operation]
    shape = row.output_shape(operation)
    return Prepared(run, lambda result: np.ascontiguousarray(result).reshape(shape))


# ---- the list

_FUNCTION = "an argument"
_CONSTANT = "constant, prepared before"

PEERS = (
    Contender(
        "torch",
        "PyTorch eager",
        Terms("NCL / NCHW", _FUNCTION, "fresh"),
        _torch,
        ("torch",),
        "torch",
        _torch_threads,
    ),
    Contender(
        "torch_channels_last",
        "PyTorch eager, channels last",
        Terms("NHWC, 1-D rows as 2-D", f"{_FUNCTION}, in channels-last order", "fresh"),
        functools.partial(_torch, channels_last=True),
        ("torch",),
        "torch",
        _torch_threads,
    ),
    Contender(
        "torch_fft",
        "overlap-save on torch.fft",
        Terms("NCL; the best of several block sizes", f"{_FUNCTION}, transformed in the call", "fresh"),
        _torch_fft,
        ("torch",),
        "torch",
        _torch_threads,
    ),
    Contender(
        "onnxruntime",
        "ONNX Runtime, CPU",
        Terms("NCL / NCHW", _CONSTANT, "reused"),
        _onnxruntime,
        ("onnxruntime", "onnx"),
        "onnxruntime",
    ),
    Contender(
        "jax",
        "JAX, compiled by XLA",
        Terms("NCL / NCHW", _FUNCTION, "fresh"),
        _jax,
        ("jax", "jaxlib"),
        "jax",
    ),
    Contender(
        "openvino",
        "OpenVINO, CPU, float32",
        Terms("NCL / NCHW", _CONSTANT, "reused"),
        _openvino,
        ("openvino",),
        "openvino",
    ),
    Contender(
        "ncnn",
        "ncnn",
        Terms("CHW, one image at a time, 1-D rows as 2-D", _CONSTANT, "fresh, from its own pool"),
        _ncnn,
        ("ncnn",),
        "ncnn",
    ),
    Contender(
        "mnn",
        "MNN",
        Terms("NCHW, 1-D rows as 2-D", _CONSTANT, "reused"),
        _mnn,
        ("MNN",),
        "MNN",
    ),
    Contender(
        "litert",
        "LiteRT with XNNPACK",
        Terms("NHWC, 1-D rows as 2-D", _CONSTANT, "reused; input already in place"),
        _litert,
        ("ai_edge_litert", "flatbuffers"),
        "ai-edge-litert",
    ),
    Contender(
        "scipy_oaconvolve",
        "scipy.signal.oaconvolve",
        Terms("one channel", _FUNCTION, "fresh"),
        _scipy_oaconvolve,
        ("scipy",),
        "scipy",
    ),
    Contender(
        "scipy_correlate",
        "scipy.signal.correlate",
        Terms("one channel, padded before", _FUNCTION, "fresh"),
        _scipy_correlate,
        ("scipy",),
        "scipy",
    ),
    Contender(
        "numpy_im2col",
        "NumPy: columns and a matrix product, as courses teach it",
        Terms("NCL / NCHW", _FUNCTION, "fresh"),
        _numpy_im2col,
        package="numpy",
    ),
)
