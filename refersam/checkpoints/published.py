"""Published models of transformers that segment photographs by phrase: names, sizes, licences and recognition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refersam.errors import CheckpointError, did_you_mean
from refersam.hub import fetch


@dataclass(frozen=True)
class Weights:
    """Repository on the Hugging Face Hub.

    Attributes:
        repository: Hub id.
        parameters: number of parameters.
        megabytes: approximate download size in MB.
        licence: licence of the weights.
        gated: whether access requires an account that has accepted the licence.
    """

    repository: str
    parameters: int
    megabytes: int
    licence: str
    gated: bool = False


@dataclass(frozen=True)
class Family:
    """Family of published models.

    Attributes:
        alias: name on the command line.
        model_types: values of `model_type` in config.json that identify the family.
        weights: default repositories, all of them required.
        method: method of segmentation, for display.
    """

    alias: str
    model_types: tuple[str, ...]
    weights: tuple[Weights, ...]
    method: str


FAMILIES = (
    Family(
        "clipseg",
        ("clipseg",),
        (Weights("CIDAS/clipseg-rd64-refined", 150_747_746, 603, "Apache-2.0"),),
        "phrase to mask directly",
    ),
    Family(
        "grounded-sam",
        ("grounding-dino",),
        (
            Weights("IDEA-Research/grounding-dino-tiny", 172_250_626, 689, "Apache-2.0"),
            Weights("facebook/sam-vit-base", 93_735_728, 375, "Apache-2.0"),
        ),
        "Grounding DINO's boxes with a score above 0.25, SAM's mask of each box, united",
    ),
    Family(
        "sam3",
        ("sam3", "sam3_video"),
        (Weights("facebook/sam3", 859_921_848, 3440, "SAM License", gated=True),),
        "all instances of the phrase with a score above 0.3, united",
    ),
)
ALIASES = {family.alias: family for family in FAMILIES}
_BY_TYPE = {kind: family for family in FAMILIES for kind in family.model_types}
_BY_REPOSITORY = {family.weights[0].repository: family for family in FAMILIES}


@dataclass(frozen=True)
class Published:
    """Published model with the location of its weights.

    Attributes:
        family: family of the model.
        names: directory or Hub id of each of `family.weights`.
    """

    family: Family
    names: tuple[str, ...]

    def fetch(self) -> list[Path]:
        """Return the directories of all weights; download missing files with a progress bar.

        Raises:
            CheckpointError: the network, access or the repository is missing.
        """
        return [fetch(name) for name in self.names]


def find_published(name: str) -> Published | None:
    """Recognise a published model by name only: an alias, a default Hub id, or ALIAS=NAME.

    `grounded-sam=DINO+SAM` gives both parts, each a directory or Hub id; `grounded-sam=DINO` uses the default SAM.

    Raises:
        CheckpointError: ALIAS=NAME has an unknown alias, no name, or more names than the family has parts.
    """
    family = ALIASES.get(name) or _BY_REPOSITORY.get(name)
    if family is not None:
        return Published(family, tuple(each.repository for each in family.weights))
    alias, equals, rest = name.partition("=")
    if not equals or "/" in alias or Path(name).exists():
        return None
    if alias not in ALIASES:
        raise CheckpointError(f"{name} does not begin with an alias: {known_aliases(alias)}")
    return _with_names(ALIASES[alias], tuple(rest.split("+")) if len(ALIASES[alias].weights) > 1 else (rest,), name)


def published_of_type(name: str, model_type: object) -> Published | None:
    """Recognise a published model by the `model_type` of its config.json.

    Args:
        name: directory or Hub id.
        model_type: value in the configuration.
    """
    family = _BY_TYPE.get(str(model_type))
    return None if family is None else _with_names(family, (name,), name)


def known_aliases(name: str = "") -> str:
    """Return the list of aliases as the end of an error sentence, with its full stop."""
    return f"the aliases are {', '.join(ALIASES)}{did_you_mean(name, ALIASES) or '.'}"


def _with_names(family: Family, names: tuple[str, ...], given: str) -> Published:
    if not all(names) or len(names) > len(family.weights):
        form = "+".join(each.repository for each in family.weights)
        raise CheckpointError(f"{given} is not a model: the form is {family.alias}={form}, or directories instead.")
    rest = tuple(each.repository for each in family.weights[len(names) :])
    return Published(family, names + rest)
