"""The words of the 500 wishes that are reported: written when the refiner's lexicon was closed, and never used to change it.

Plain phrases and everyday ones, as somebody types who wants a clip and has not read a manual.
"""

from __future__ import annotations

SHAPES = {
    "ball": "ball|rubber ball|sphere|beach ball|round blob|bouncy ball|circle|soccer ball|bubble|balls|disc",
    "square": "square|cube|box|little box|block of wood|square tile|brick|big square|squares|cube thing",
    "triangle": "triangle|pyramid|cone|little triangle|triangular thing|triangle shape|pointy triangle|three sided shape|slice of pizza",
    "star": "star|five pointed star|little star|star shape|big shiny star|cartoon star|star thing|christmas star|starfish",
    "heart": "heart|love heart|heart shape|valentine heart|big heart|heart symbol|heart emoji|little heart|cute heart",
    "ring": "ring|hoop|donut|hula hoop|wheel|tyre|a circle with a hole in it|round ring|bagel|inflatable ring",
}
COLOURS = {
    "red": "red|bright red|dark red|crimson|ruby|cherry red|strawberry red|shiny red",
    "orange": "orange|bright orange|pumpkin orange|tangerine|amber|deep orange|orange coloured",
    "yellow": "yellow|bright yellow|golden|lemon yellow|sunflower yellow|gold|light yellow",
    "green": "green|bright green|lime|emerald green|grass green|dark green|apple green|mossy green",
    "cyan": "cyan|turquoise|teal|light blue|sky blue|aqua|pale blue|bright turquoise",
    "blue": "blue|dark blue|navy blue|royal blue|bright blue|deep blue|cobalt|ocean blue",
    "purple": "purple|violet|lilac|lavender|dark purple|plum|bright violet|grape purple",
    "pink": "pink|hot pink|magenta|light pink|bubblegum pink|rosy pink|fuchsia|pastel pink",
}
PLACES = {
    "night sky": "at night|in the night sky|in space|under the stars|in outer space|against a starry sky|night|"
                 "with stars in the background",
    "meadow": "in a meadow|on the grass|in a green field|over the hills|in the park|on a lawn|in a garden|grass in the background",
    "sea": "at the beach|over the sea|by the sea|over the ocean|on the water|above the waves|ocean background|at the coast",
    "desert": "in the desert|on the sand|in the sahara|over the dunes|in a sandy desert|sand dunes|desert background|in the hot sand",
    "snow": "in the snow|in winter|on a snowy hill|on the ice|snowy landscape|over fresh snow|winter wonderland|snow everywhere",
    "plain studio": "in a studio|on a plain background|in an empty room|in front of a grey wall|"
                    "plain grey background|simple background|indoors",
}
MOTIONS = {
    "left to right": "moves left to right|going right|slides to the right|rolls from left to right|flies off to the right|"
                     "moving to the right",
    "right to left": "moves right to left|going left|slides to the left|rolls from right to left|flies off to the left|moving to the left",
    "rises": "goes up|rises|floats up|flying up into the air|moves upwards|floating upwards|climbs up|takes off",
    "falls": "falls|drops down|falling from the sky|sinks down|goes down|falling|moves downwards|drops",
    "bounces": "bounces|jumping|bounces around|hops up and down|keeps bouncing|jumping up and down|bouncing|hops",
    "grows": "gets bigger|grows|growing bigger and bigger|expands|gets larger|inflates|becomes bigger|growing",
    "shrinks": "gets smaller|shrinks|shrinking|becomes tiny|gets smaller and smaller|shrinks away|is shrinking|becomes smaller",
    "spins": "spins|rotates|spinning around|turns around|twirls|spins round and round|rotating slowly|spinning",
}
PACES = {
    "slowly": "slowly|very slowly|slow|gently|in slow motion|at a slow speed|slow motion|really slowly",
    "quickly": "fast|quickly|very fast|really fast|rapidly|at high speed|super fast|quick",
}
BEINGS = ("puppy", "hamburger", "motorbike", "grandfather", "cactus", "panda", "airplane", "pianist", "tulip", "dinosaur")
ONE = (
    "{thing} {move} {pace} {place}", "{thing} {move} {place}", "{place}, {thing} {move} {pace}", "{thing} {place}", "{thing} {move}",
    "i want {thing} that {move} {place}", "please show {thing} {place}, it {move} {pace}", "{thing}, {place}, {move}, {pace}",
    "{move} {thing} {place}", "{thing} that {move} {pace}", "video of {thing} {move} {place}", "{pace} {thing} {move}", "{thing}",
    "make {thing} {move} {pace} {place} pls", "{place} with {thing}, {move}", "{thing} {move}, {pace}, {place}!",
    "show me {thing} {move} {place}",
)  # fmt: skip
TWO = ("{thing} and {other} {move} {place}", "{thing} and {other}", "{place}: {thing} and {other} {move} {pace}",
       "{thing} next to {other}, {move}", "i'd like {thing} together with {other} {place}")  # fmt: skip
