"""A LiteRT model of one convolution layer, written with the flatbuffer classes that the LiteRT package ships.

LiteRT itself only runs models; the usual way to make one is a converter of several hundred megabytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Row
from .contenders import Unsupported


def layer(row: Row, weight: np.ndarray) -> bytes:
    """The model: input (N, H, W, C), zero padding as an operator of its own (XNNPACK fuses it), convolution, output.

    1-D rows become planes of one row. Raises Unsupported for what the format cannot say.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    g = row.geometry
    depthwise = row.groups > 1 and row.groups == g.C
    if depthwise and max(g.dilation) > 1 and max(g.stride) > 1:
        raise Unsupported("dilation and stride together in a depthwise layer")
    w = weight.reshape(g.w_shape)
    # CONV_2D takes (K, R, S, C/groups), DEPTHWISE_CONV_2D (1, R, S, K).
    w = np.ascontiguousarray(w.transpose(1, 2, 3, 0) if depthwise else w.transpose(0, 2, 3, 1))

    buffers: list[Any] = [schema.BufferT()]
    tensors: list[Any] = []

    def tensor(name: str, shape: tuple[int, ...], kind: int, data: np.ndarray | None = None) -> int:
        entry = schema.TensorT()
        entry.name, entry.shape, entry.type, entry.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            buffers.append(buffer)
            entry.buffer = len(buffers) - 1
        tensors.append(entry)
        return len(tensors) - 1

    codes: list[Any] = []
    operators: list[Any] = []

    def operator(code: int, version: int, inputs: list[int], output: int, kind: int, options: Any) -> None:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
        codes.append(entry)
        step = schema.OperatorT()
        step.opcodeIndex, step.inputs, step.outputs = len(codes) - 1, inputs, [output]
        step.builtinOptionsType, step.builtinOptions = kind, options
        operators.append(step)

    floats = schema.TensorType.FLOAT32
    source = tensor("source", (g.N, g.H, g.W, g.C), floats)
    bottom = max(0, (g.P - 1) * g.stride[0] + (g.R - 1) * g.dilation[0] + 1 - g.H - g.pad[0])
    right = max(0, (g.Q - 1) * g.stride[1] + (g.S - 1) * g.dilation[1] + 1 - g.W - g.pad[1])
    seen = source
    if any((*g.pad, bottom, right)):
        pads = np.array([[0, 0], [g.pad[0], bottom], [g.pad[1], right], [0, 0]], np.int32)
        amounts = tensor("pads", pads.shape, schema.TensorType.INT32, pads)
        seen = tensor("padded", (g.N, g.H + g.pad[0] + bottom, g.W + g.pad[1] + right, g.C), floats)
        operator(schema.BuiltinOperator.PAD, 1, [source, amounts], seen, schema.BuiltinOptions.PadOptions,
                 schema.PadOptionsT())  # fmt: skip
    kernel = tensor("w", w.shape, floats, w)
    bias = tensor("b", (g.K,), floats, np.zeros(g.K, np.float32))
    result = tensor("result", (g.N, g.P, g.Q, g.K), floats)
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = g.stride
    options.dilationHFactor, options.dilationWFactor = g.dilation
    if depthwise:
        options.depthMultiplier = g.K // g.C
        code, kind = schema.BuiltinOperator.DEPTHWISE_CONV_2D, schema.BuiltinOptions.DepthwiseConv2DOptions
    else:
        code, kind = schema.BuiltinOperator.CONV_2D, schema.BuiltinOptions.Conv2DOptions
    operator(code, 2, [seen, kernel, bias], result, kind, options)

    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [source], [result], operators
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, codes, [graph], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
