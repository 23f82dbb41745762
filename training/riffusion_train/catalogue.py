"""What riffusion-mini can play: every instrument, its sound source, its range, its playing styles and its words."""

from __future__ import annotations

from dataclasses import dataclass, field

BEATS_PER_CLIP = (6, 8, 10, 12)
"""Whole numbers of beats in 5.12 s, so that every clip loops: 70, 94, 117 and 141 beats a minute."""

TEMPO_WORDS: dict[int, tuple[str, ...]] = {
    6: ("slow", "slow", "relaxed"),
    8: ("medium tempo", "mid-tempo", "steady"),
    10: ("fast", "upbeat", "quick"),
    12: ("very fast", "very fast", "energetic"),
}

MOOD_WORDS: dict[str, tuple[str, ...]] = {
    "major": ("happy", "bright", "cheerful", "major"),
    "minor": ("sad", "dark", "melancholic", "minor"),
}

PATTERN_WORDS: dict[str, tuple[str, ...]] = {
    "chords": ("chords", "chord progression"),
    "arpeggio": ("arpeggio", "arpeggios", "broken chords"),
    "melody": ("melody", "solo", "tune"),
    "riff": ("riff", "groove"),
    "sustained": ("long notes", "pad", "sustained chords"),
}


@dataclass(frozen=True)
class Manner:
    """Another way to play: the phrase generator and the pattern that an instrument takes instead of its own."""

    feel: str
    pattern: str


MANNERS: dict[str, Manner] = {
    "jazzy": Manner("jazz", "melody"),
    "funky": Manner("funk", "riff"),
    "bluesy": Manner("blues", "riff"),
    "classical": Manner("plain", "melody"),
}
"""By the word that a caption puts before the instrument."""


@dataclass(frozen=True)
class Instrument:
    """One entry of the vocabulary: a caption's subject and how to make it sound.

    ``programs`` are General MIDI programs (0-based), of which a rendering draws one; ``low`` and ``high`` bound the
    MIDI pitches; ``feel`` picks the phrase generator; ``names`` are the words a caption may use, commonest first;
    ``weight`` is its share of the data set; ``manners`` are the words of other ways in which it plays now and then.
    """

    label: str
    names: tuple[str, ...]
    feel: str = "plain"
    programs: tuple[int, ...] = ()
    low: int = 48
    high: int = 84
    patterns: tuple[str, ...] = ("chords", "arpeggio", "melody")
    weight: float = 1.0
    drum_kits: tuple[int, ...] = field(default=())
    manners: tuple[str, ...] = ()


INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument(
        "piano", ("piano", "piano", "grand piano", "classical piano"), "plain", (0, 1), 40, 88, weight=2.2
    ),
    Instrument(
        "funky piano",
        ("funky piano", "funky piano", "funk piano", "funky keys"),
        "funk",
        (0, 4, 2),
        40,
        84,
        ("riff",),
        1.4,
    ),
    Instrument(
        "jazz piano",
        ("jazz piano", "jazz piano", "jazzy piano", "swing piano"),
        "jazz",
        (0, 1),
        40,
        88,
        ("chords", "melody"),
        1.4,
    ),
    Instrument(
        "church bells",
        ("church bells", "church bells", "bells", "tolling bells"),
        "bells",
        (14,),
        48,
        79,
        ("melody",),
        1.4,
    ),
    Instrument(
        "electronic beats",
        ("electronic beats", "electronic beats", "electronic drums", "techno beat", "drum machine"),
        "beats",
        drum_kits=(25, 24),
        patterns=("riff",),
        weight=1.4,
    ),
    Instrument(
        "saxophone",
        ("saxophone", "saxophone", "sax", "tenor sax", "alto sax"),
        "jazz",
        (65, 66),
        49,
        80,
        ("melody",),
        1.4,
        manners=("bluesy", "classical"),
    ),
    Instrument(
        "blues guitar",
        ("blues guitar", "blues guitar", "bluesy guitar", "electric blues guitar"),
        "blues",
        (26, 27, 29),
        45,
        79,
        ("riff",),
        1.4,
    ),
    Instrument(
        "acoustic guitar",
        ("acoustic guitar", "acoustic guitar", "folk guitar", "nylon guitar"),
        "strum",
        (24, 25),
        40,
        76,
        ("chords", "arpeggio"),
        1.4,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "bass",
        ("bass", "bass guitar", "electric bass", "bassline"),
        "bass",
        (33, 34, 36),
        28,
        50,
        ("riff",),
        1.4,
        manners=("jazzy",),
    ),
    Instrument(
        "strings",
        ("strings", "string orchestra", "string section", "orchestral strings"),
        "plain",
        (48, 49),
        43,
        84,
        ("sustained", "melody", "chords"),
        1.4,
        manners=("jazzy", "funky"),
    ),
    Instrument(
        "typewriter taps",
        ("typewriter taps", "typewriter", "typewriter keys", "typing on a typewriter"),
        "typewriter",
        patterns=("riff",),
        weight=1.4,
    ),
    Instrument(
        "drums",
        ("drums", "drum kit", "acoustic drums", "rock drums"),
        "beats",
        drum_kits=(0, 8, 16),
        patterns=("riff",),
    ),
    Instrument(
        "flute",
        ("flute", "flute", "pan flute"),
        "plain",
        (73, 75),
        60,
        93,
        ("melody",),
        1.2,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "trumpet",
        ("trumpet", "trumpet", "muted trumpet"),
        "jazz",
        (56, 59),
        55,
        82,
        ("melody",),
        1.3,
        manners=("bluesy", "classical"),
    ),
    Instrument(
        "violin",
        ("violin", "fiddle", "solo violin"),
        "plain",
        (40,),
        56,
        93,
        ("melody",),
        0.8,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "organ",
        ("organ", "church organ", "hammond organ"),
        "plain",
        (16, 19),
        36,
        84,
        ("sustained", "chords"),
        0.8,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "marimba",
        ("marimba", "marimba", "xylophone"),
        "plain",
        (12, 13),
        48,
        91,
        ("arpeggio", "melody"),
        0.9,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "synth",
        ("synth", "synth lead", "analog synth"),
        "plain",
        (80, 81),
        48,
        88,
        ("arpeggio", "riff", "melody"),
        0.9,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "rock guitar",
        ("rock guitar", "distorted guitar", "heavy electric guitar"),
        "power",
        (29, 30),
        40,
        70,
        ("riff",),
        0.9,
        manners=("jazzy", "funky", "bluesy"),
    ),
    Instrument(
        "choir",
        ("choir", "vocal choir", "singing choir"),
        "plain",
        (52,),
        48,
        79,
        ("sustained", "chords"),
        0.8,
        manners=("jazzy",),
    ),
)


def by_label(label: str) -> Instrument:
    """The instrument of that label; KeyError if there is none."""
    return {instrument.label: instrument for instrument in INSTRUMENTS}[label]


UNTUNED = frozenset({"electronic beats", "drums", "typewriter taps"})
"""Labels of instruments without pitch, which go with every other."""

HELD_OUT_PAIRS = frozenset(
    {frozenset({"church bells", "electronic beats"}), frozenset({"flute", "typewriter taps"})}
)
"""Pairs that a model never learns together, so that it can be asked for what it has not heard."""

HELD_OUT_MANNERS = frozenset({("flute", "jazzy"), ("violin", "jazzy")})
"""Ways of playing, by label and word, that it never learns of these instruments, for the same end."""
