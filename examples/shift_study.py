"""A shift study in a minute's reading: how far may a picture move before a network is lost?

Bright squares and crosses are drawn at one place, and a CNN and an MLP learn to tell them apart. Then the pictures are
moved, pixel by pixel. The MLP has one weight a pixel; the CNN's kernels move along with the picture, and with global
average pooling behind them nothing depends on the place any more.
"""

import numpy as np

from fastconv import nn

SIDE, PLACE = 20, 5


def pictures(count, rng, moved=0):
    """Outlined squares (0) and crosses (1), 7 pixels wide, in noise, `moved` pixels right and down."""
    kind = rng.integers(0, 2, count)
    images = rng.normal(0, 0.25, (count, 1, SIDE, SIDE)).astype(np.float32)
    square, cross = np.zeros((7, 7)), np.zeros((7, 7))
    square[[0, -1]], square[:, [0, -1]] = 1, 1
    cross[3], cross[:, 3] = 1, 1
    at = slice(PLACE + moved, PLACE + moved + 7)
    images[:, 0, at, at] += np.stack([square, cross])[kind]
    return images, kind


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.GlobalAvgPool(),
        nn.Linear(8, 2),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, 2))


def main():
    moves = (0, 1, 2, 4, 6)
    print(f"{'accuracy, moved by':<28}" + "".join(f"{moved:>5} px" for moved in moves))
    for name, build in (("MLP", mlp), ("CNN, global average pooling", cnn)):
        rng = np.random.default_rng(1)
        nn.manual_seed(1)
        model = build()
        adam = nn.Adam(model.parameters(), lr=0.005)
        nn.fit(model, pictures(400, rng), loss=nn.CrossEntropyLoss(), optimizer=adam, epochs=30, batch_size=40)
        model.eval()
        cells = []
        for moved in moves:
            images, kind = pictures(500, rng, moved)
            cells.append(np.mean(model.forward(images).argmax(axis=1) == kind))
        print(f"{name:<28}" + "".join(f"{cell:>8.0%}" for cell in cells))
    print("\nBoth see only one place in training. `fastconv equivariance` does the same with real images.")


if __name__ == "__main__":
    main()
