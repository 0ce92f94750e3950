"""More ways to say the same things, for the second phase of training: what people typed that the first lexicon had not."""

from __future__ import annotations

from .lexicon import tables


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


PACES = {
    "quickly": _phrases("""
        in a rush, in a big hurry, at a rush, as fast as it can, as quickly as possible, really speedy, super quickly, extremely
        fast, fast and furious, quick quick, in fast motion, with speed, hurried"""),
    "slowly": _phrases("""
        extremely slowly, slow and steady, very very slowly, really slowly, in slowmotion, super slowly, a bit slow, taking its
        sweet time, with patience, at a crawl, slower"""),
}
MOTIONS = {
    "grows": _phrases("""
        gets really big, gets very big, turning bigger, turns bigger, turning large, becomes really large, grows huge, getting
        really big, becoming large, getting bigger all the time, grows and grows, blowing up like a balloon, growing up, grows
        larger, coming nearer"""),
    "shrinks": _phrases("""
        gets really small, gets very small, turning smaller, turns smaller, turning tiny, getting really tiny, becomes really small,
        shrinks and shrinks, growing smaller, grows smaller, shrinks until it is gone, getting smaller all the time, becomes tinier,
        goes small"""),
    "rises": _phrases("""
        shooting up, flying upward, going skyward, heads up, heading upward, moves to the sky, zooms up, zooming up, jets up, blasts
        off, sails up, up it goes, goes upward, rises higher, up and away, going to the top, drifting upward, climbs higher"""),
    "falls": _phrases("""
        heads down, heading downward, zooms down, drops straight down, goes to the ground, comes falling, down it goes, falls to the
        ground, hits the ground, falling to the floor, drifting downward, sinks lower, sinks to the bottom, falls out of the sky"""),
    "bounces": _phrases("""
        leaps up and down, jumping again and again, hops again and again, keeps jumping, bounces repeatedly, bounce bounce bounce,
        jump jump, bouncing like crazy, hopping up and down, jumps up and down, is bouncing, springs up and down, bounces on the
        floor"""),
    "spins": _phrases("""
        keeps spinning, spins and spins, turns round and round, rotating on itself, spinning on its axis, on its axis, rotates
        around, spin spin, turning round, spins in a circle, whirling around, rotating around, is spinning, does a turn, twirls
        around"""),
    "left to right": _phrases("""
        goes to the right side, over to the right, toward the right side, from the left side over to the right, left side to right
        side, moves across to the right, goes across from left to right, runs from left to right, zooms to the right, flying to the
        right, goes to right"""),
    "right to left": _phrases("""
        goes to the left side, over to the left, toward the left side, from the right side over to the left, right side to left
        side, moves across to the left, goes across from right to left, runs from right to left, zooms to the left, flying to the
        left, goes to left"""),
}
SHAPES = {
    "ball": _phrases("""
        kickball, pinball, paintball, softball, crystal ball, disco ball, eight ball, cue ball, fireball, exercise ball, yoga ball,
        cricket ball, soap bubble, polka dot, spot, round balloon, round stone, boulder, rubber bouncy ball, tiny ball, big ball,
        roundish thing"""),
    "square": _phrases("""
        tetris piece, toast, cracker, post-it, sticky note, chess square, cushion, ravioli, square button, four-sided figure,
        chocolate square, lego block, square box, cube of sugar, jenga block, cubical thing, container, four sided thing, square
        piece, pixel block"""),
    "triangle": _phrases("""
        nacho, samosa, dorito, toblerone, yield sign, give way sign, warning triangle, triangular flag, pennant, sail, roof, guitar
        pick, triangular piece, three-edged shape, tetrahedron, set square, wedge of cheese, slice of cake, spike, triangle block,
        three sided thing"""),
    "star": _phrases("""
        nautical star, glittery star, christmas tree star, five-star, star outline, star decoration, star shaped thing, star-shaped
        thing, star-shaped object, star figure thing, spiky star, star toy, astral shape, superstar symbol, five pointed shape"""),
    "heart": _phrases("""
        lovey heart, valentines shape, heart logo, heart pic, big love heart, love token, heart-shape, heart shaped object,
        heart-shaped object, heart-shaped balloon, i love you heart, valentine day heart, hart, heart outline, cartoon heart"""),
    "ring": _phrases("""
        washer, calamari, ring donut, lifering, life buoy, wheel rim, bike tire, bicycle tyre, racing tire, ring toy, teething ring,
        hoop earring, round frame, zero, wreath, rubber band, bangle, loop shape, ring shaped thing, ring-shaped object, frosted
        donut"""),
}
COLOURS = {
    "red": _phrases("""
        lava red, apple red, coral red, rose-red, devil red, santa red, blood-red, stop sign red, redish, fire-engine red, flame red"""),
    "orange": _phrases("""
        fire orange, orangey, mango, papaya, traffic cone orange, carroty, pumpkin-orange, mandarine orange, orang, tiger-orange"""),
    "yellow": _phrases("""
        taxi yellow, lemony, post-it yellow, cheese yellow, school bus yellow, dandelion, sunny, straw yellow, yelow, lemon-yellow"""),
    "green": _phrases("""
        frog green, clover green, leafy green, cucumber green, christmas green, grassy green, pickle green, army green, emerald
        green"""),
    "cyan": _phrases("""
        swimming pool blue, pool blue, mint blue, tiffany blue, caribbean blue, cyanish, aqua green, light turquoise, sky coloured"""),
    "blue": _phrases("""
        jeans blue, smurf blue, police blue, deep-sea blue, classic blue, strong blue, blueish, bule, marine, royal-blue, dark-blue"""),
    "purple": _phrases("""
        prince purple, berry purple, wine purple, violetish, eggplant purple, lavender purple, purpel, grape coloured, purple-ish"""),
    "pink": _phrases("""
        piglet pink, rosy pink, pinky pink, candyfloss pink, salmon-coloured, magenta pink, princess pink, pnik, rose pink"""),
}
PLACES = {
    "night sky": _phrases("""
        nighttime sky, in the starlight, starlight, at nite, nite sky, up there with the stars, galaxy background, late evening,
        pitch dark sky, constellations, in orbit, starry heaven, with the stars above, in the blackness of space, nighty sky"""),
    "meadow": _phrases("""
        in a green landscape, on a hill, grassy plain, sports field, pastureland, lush green field, on turf, in the meadows, green
        countryside, in a grass field, grass background, in the grassland, on green grass, picnic lawn, in a hilly meadow"""),
    "sea": _phrases("""
        sea background, at the waterside, above water, over the harbour, in front of waves, wavy water, on the waves, ocean
        background, near the ocean, coastline, by a lake, on a lake, at a beach, in front of the ocean, with waves behind, seaview,
        by the beach"""),
    "desert": _phrases("""
        in the sand, sandy dunes, dune landscape, in the dry sand, saharan dunes, hot dunes, over a dune, desert sand, in the middle
        of the desert, sandy land, in an empty desert, in the hot desert, with dunes behind, in sand dunes, dry desert"""),
    "snow": _phrases("""
        in snowy weather, ski resort, cold snow, icy field, in the white snow, over an icy field, frozen lake, snowy plain, on the
        snow, snowy mountains background, snow-covered field, in a snowfield, snowy landscape, winter snow, sonw, cold winter"""),
    "plain studio": _phrases("""
        grey studio, gray studio, empty grey room, plain wall behind, clean studio, plain empty room, no scenery, nothing in the
        background, blank wall, monochrome background, in front of a grey wall, featureless room, simple room, in an empty room,
        simple grey background"""),
}
OUTSIDE = _phrases("""
        snowman, snowboard, sandcastle, starship, seahorse, sea lion, ballerina, footballer, ringmaster, nightclub, winter coat,
        desert fox, ball gown, trumpet, tractor, giraffe, kangaroo, lighthouse, ferris wheel, sandman, ballpoint pen, starling,
        heartbeat monitor, snow leopard, beach towel, square dance, ringtone, blueprint, redhead, orange juice, greenhouse, violin
        player, pinky promise, night owl, meadowlark, spinning wheel, grower, jumping spider, fall leaves, growling bear, high
        heels, upstairs, left handed man, right whale, slow cooker, fast food, quicksand""")
"""Confusable with what the world has."""


def wider_tables() -> dict[str, dict[str, tuple[str, ...]]]:
    """`lexicon.tables` and all of the above."""
    first = tables()
    more = {"shape": SHAPES, "colour": COLOURS, "background": PLACES, "motion": MOTIONS, "pace": PACES}
    return {name: {fact: tuple(dict.fromkeys((*first[name][fact], *more[name][fact]))) for fact in first[name]} for name in first}
