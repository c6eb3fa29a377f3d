"""What zlib, zstd, and zstd with a dictionary make of values.

``python -m benchmarks.compression`` prints, for JSON of two sizes, the part of
its bytes that is left, and the microseconds of the processor that it takes to
compress and to inflate a value. The dictionary is trained on other values of
the same kind; the package has no option for one.
"""

import json
import random
import time
import zlib

from sprockets.clients.memcached.data import frames

COUNT = 1000
"""Values of a size."""

DICTIONARY = 32 * 1024


def users(rng, words, length):
    """Return values as a service has them: users, with a text about each."""
    return [
        json.dumps(
            {
                'id': rng.randrange(1 << 30),
                'name': ' '.join(rng.choices(words, k=2)),
                'email': f'{rng.choice(words)}@example.com',
                'roles': rng.sample(['admin', 'editor', 'reader'], 2),
                'settings': {
                    'theme': rng.choice(['dark', 'light']),
                    'language': rng.choice(['en', 'de', 'no']),
                },
                'about': ' '.join(rng.choices(words, k=length)),
            }
        ).encode()
        for _ in range(COUNT)
    ]


def timed(function, values):
    """Return what a function makes of values, and microseconds for each."""
    began = time.process_time()
    made = [function(value) for value in values]
    return made, (time.process_time() - began) / len(values) * 1e6


def main():
    rng = random.Random(3)
    words = [
        ''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=rng.randint(3, 9)))
        for _ in range(2000)
    ]
    zstd = frames._zstd
    for length in (20, 400):
        known = zstd.train_dict(users(rng, words, length), DICTIONARY)
        values = users(rng, words, length)
        whole = sum(map(len, values))
        ways = {
            'zlib': (zlib.compress, zlib.decompress),
            'zstd': (frames.compress, zstd.decompress),
            'zstd, dictionary': (
                lambda data, known=known: zstd.compress(data, zstd_dict=known),
                lambda data, known=known: zstd.decompress(
                    data, zstd_dict=known
                ),
            ),
        }
        for name, (compress, inflate) in ways.items():
            made, compressing = timed(compress, values)
            _, inflating = timed(inflate, made)
            print(
                f'{whole // COUNT:5} bytes  {name:17}'
                f' {sum(map(len, made)) / whole:.2f}'
                f' {compressing:6.1f} us {inflating:6.1f} us'
            )


if __name__ == '__main__':
    main()
