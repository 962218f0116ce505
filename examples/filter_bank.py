"""Learn a filter bank for sound, and look at what was learnt.

Half-second sounds of three kinds are synthesised: a low tone, a high tone and a chirp between them, each at a random
phase and in noise. A small network of 1-D convolution, pooling and a linear layer learns to tell them apart. Its
convolution is a bank of filters, none of them designed by hand: their frequency responses show which bands it found.
"""

import numpy as np

import fastconv as fc
from fastconv import nn

RATE, LENGTH, FILTERS, TAPS = 8000, 1600, 6, 64
KINDS = ("low tone, 400 Hz", "high tone, 1800 Hz", "chirp, 400 to 1800 Hz")


def sounds(count, rng):
    """`count` sounds as (count, 1, LENGTH), and their kinds."""
    kind = rng.integers(0, len(KINDS), count)
    time = np.arange(LENGTH) / RATE
    start, end = np.array([400, 1800, 400])[kind], np.array([400, 1800, 1800])[kind]
    turns = start[:, None] * time + (end - start)[:, None] * time**2 / (2 * time[-1])
    clean = np.sin(2 * np.pi * (turns + rng.random((count, 1))))
    return (clean + rng.normal(0, 1.0, clean.shape)).astype(np.float32)[:, None], kind


def main():
    rng = np.random.default_rng(0)
    train, validation = sounds(300, rng), sounds(200, rng)
    nn.manual_seed(0)
    bank = nn.Conv1d(1, FILTERS, TAPS, stride=4)
    model = nn.Sequential(bank, nn.ReLU(), nn.GlobalAvgPool(), nn.Linear(FILTERS, len(KINDS)))
    history = nn.fit(
        model, train, loss=nn.CrossEntropyLoss(), optimizer=nn.Adam(model.parameters(), lr=0.01), epochs=30,
        batch_size=50, validation=validation,
    )  # fmt: skip
    print(f"kinds of sound told apart, new ones: {history['epochs'][-1]['accuracy']:.0%}\n")

    filters = bank.weight.data
    response = np.abs(np.fft.rfft(filters[:, 0], 1024))
    print("filter   strongest at")
    for number, curve in enumerate(response, 1):
        bar = "#" * round(20 * curve.max() / response.max())
        print(f"{number:6}   {np.argmax(curve) * RATE / 1024:6.0f} Hz   {bar}")

    # The bank is an ordinary array of filters: any sound can be sent through it.
    chirp = train[0][train[1] == 2][:1]
    bands = np.abs(fc.conv1d(chirp, filters, padding="same"))[0]
    first, last = bands[:, : LENGTH // 2].mean(axis=1), bands[:, LENGTH // 2 :].mean(axis=1)
    rising = int(np.argmax(last / first)) + 1
    louder = (last / first).max()
    print(f"\nOne chirp through the bank: filter {rising} answers {louder:.1f} times as loud in its second half.")


if __name__ == "__main__":
    main()
