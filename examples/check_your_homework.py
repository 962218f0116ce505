"""Check a convolution that you have written yourself: which gradient is wrong, and why?

The functions below are what one hands in: a forward pass that is right and a backward pass with two mistakes in it.
Put your own in their place; the parameters may have any usual names and order.
"""

import numpy as np

from fastconv.testing import check_conv


def conv1d(x, w, b, stride=1):
    outputs = (len(x) - len(w)) // stride + 1
    return np.array([x[i * stride : i * stride + len(w)] @ w + b for i in range(outputs)])


def backward(grad_output, x, w, stride=1):
    grad_x, grad_w = np.zeros_like(x), np.zeros_like(w)
    for i, g in enumerate(grad_output):
        grad_w += g * x[i : i + len(w)]  # here the stride is missing
        grad_x[i * stride : i * stride + len(w)] += g * w
    grad_b = grad_output  # here the sum is missing
    return grad_x, grad_w, grad_b


def mended(grad_output, x, w, stride=1):
    grad_x, grad_w = np.zeros_like(x), np.zeros_like(w)
    for i, g in enumerate(grad_output):
        grad_w += g * x[i * stride : i * stride + len(w)]
        grad_x[i * stride : i * stride + len(w)] += g * w
    return grad_x, grad_w, grad_output.sum()


if __name__ == "__main__":
    print("First attempt\n")
    print(check_conv(conv1d, backward))
    print("\n\nMended\n")
    print(check_conv(conv1d, mended))
    # In a test file one line is enough; it fails with the report above.
    check_conv(conv1d, mended, raise_on_error=True)
