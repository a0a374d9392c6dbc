"""One batch through a pretrained VGG of torchvision: features, certificates and images; lines as `convolutional`'s.

Claim and source: SPEAR's VGG16 / ImageNet table (facts "S" for its rows; LPIPS and feature similarity there, no figure
known for sure). Not run yet: no weights were at hand. Hardware: a GPU for 224 x 224 images (the FC gradient alone has
4096 x 25088 entries); small networks run anywhere. `features.weights` says which names the file must have.

    python -m experiments.features.pretrained --weights vgg16.safetensors --images imagenet/224 --data DIR
"""

from __future__ import annotations

import argparse

import jax

from experiments.claims import convolutional
from experiments.claims.convolutional import Options
from experiments.harness import claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims.add_options(parser)
    parser.add_argument("--weights", required=True, metavar="FILE", help="safetensors, torchvision's names")
    parser.add_argument("--images", default="imagenet/224", help="file or folder of the data pack")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--inverted", type=int, default=4, help="images to invert")
    parser.add_argument("--inversion-steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    chosen = {name: value for name, value in vars(arguments).items() if name in Options._fields}
    settings = [Options(**chosen).setting(convolutional.FIRST_SEED + index) for index in range(arguments.seeds)]
    claim = convolutional.CLAIM._replace(settings=lambda is_quick: settings[:1] if is_quick else settings)
    claims.run(claim, arguments)
    claims.tell(claim, arguments.out)


if __name__ == "__main__":
    main()
