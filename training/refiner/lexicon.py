"""The many ways in which people name the few things of the pocket world: what the refiner learns to read.

Each table maps one fact to phrases, beside those of the captions' own grammar (`training.pocket.captions`). They say what
somebody may type who has never seen a caption: plain words, rare ones, slang, other languages' everyday words.
`OUTSIDE` is the opposite: things that the world has not, so that the reader learns to leave them alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.pocket import captions


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.replace("\n", " ").split(",") if phrase.strip())


SHAPES = {
    "ball": _phrases("""
        handball, medicine ball, dodgeball, eyeball, pebble, button, plate, frisbee, pea, droplet, globule, pompom, ball of wool,
        roundel, spherical shape, spherical object, rounded thing, circular thing, circular object, full circle, rolling ball, toy
        ball, gumball, meatball, snowball, cotton ball, ball, balls, football, basketball, beach ball, tennis ball, marble, globe,
        bubble, dot, round thing, round shape, round object, bead, pearl, bowling ball, snooker ball, soccer ball, ping pong ball,
        bauble, spheroid, circular shape, disc shape, circle shape, coin, blob, rubber ball, pelota, kugel, bola, balle, boule,
        ballon, palla, filled circle, solid circle, bouncy ball, baseball, volleyball, cannonball, golf ball, planet, balloon, 球,
        мяч, كرة, kreis, cercle, circulo"""),
    "square": _phrases("""
        four cornered shape, four-cornered thing, shape with four corners, shape with four sides, building brick, kids block, alphabet
        block, blocky thing, square plate, squarish shape, square panel, cuboid, cubic shape, square card, gift box, present box,
        shoebox, suitcase, toy brick, regular rectangle, square, squares, quadrat, cuadrado, carre, quadrato, box shape, crate, brick,
        tile, dice, die, rectangle, cubic block, four sided shape, four-sided shape, cubes, parcel, package, lego brick, pixel, sugar
        cube, square shape, boxy thing, carton, case, cardboard box, square tile, quadrangle, ice cube, toy block, wooden block,
        minecraft block, sq, 方块, 正方形, квадрат, مربع, würfel, caja, quadrado, cube shape, square thing, chest"""),
    "triangle": _phrases("""
        three cornered thing, shape having three sides, triangle tile, triangle sign, tortilla chip, three pointed thing, small
        pyramid, conical shape, conical thing, egyptian pyramid, wigwam, tipi, pointed cap, wizard hat shape, ice cream cone, triangle
        thing, triangular figure, triangular icon, triangle, triangles, triangular shape, tri, dreieck, triangulo, triangolo,
        triangular thing, pyramid shape, wedge, three cornered shape, three-cornered shape, shape with three corners, shape with three
        sides, triangular block, delta, arrowhead, tent shape, party hat, cone shape, pointy shape, traffic cone, trigon, pizza slice,
        slice of pizza, 三角形, треугольник, مثلث, pyramide, three sided shape, triangular tile, warning sign"""),
    "star": _phrases("""
        star like shape, star-like thing, starred shape, five armed star, sea star, shooting star, wishing star, falling star, rock
        star sign, glitter star, big star, toy star, star ornament, tree topper star, gold star, star badge, star cutout, twinkling
        star, hero star, star cookie, sheriff badge, star, starry shape, stern, estrella, etoile, stella, estrela, five pointed star,
        5 pointed star, starlet, pentagram, star thing, gold star shape, star figure, star sign, starfish, asterisk, christmas star,
        sheriff star, star icon, pointy star, lone star, 星星, 五角星, звезда, نجمة, star symbol, star emoji, five point star, single
        star, one star, paper star"""),
    "heart": _phrases("""
        love shape, heart-like shape, big heart, beating heart, loving heart, heart cutout, heart cookie, heart pillow, heart pendant,
        toy heart, heart figure thing, sweet heart, romantic heart, playing card heart, heart of love, heart button, like button
        heart, heart drawing, tiny heart, heart, hearts, herz, corazon, coeur, cuore, coracao, love symbol, valentine, valentine
        heart, heart symbol, heart emoji, love sign, heart icon, valentines heart, heart thing, sweetheart shape, hearth shape, lovely
        heart, heart figure, 心, 爱心, сердце, قلب, heart sign, candy heart, heart balloon, heart shaped thing, heart-shaped thing, <3"""),
    "ring": _phrases("""
        circle with nothing inside, ring-like shape, swim ring, pool ring, steering wheel, bike wheel, car tire, rubber tyre, key
        ring, napkin ring, curtain ring, life preserver, life belt, lifesaver, onion loop, open circle, circular band, hoopla ring,
        gymnastic hoop, basketball hoop, cheerio, toroid, ring, rings, torus, hoop, hula hoop, bagel, circle with a hole, annulus,
        band, wheel, tyre, tire, loop, life ring, lifebuoy, halo, o shape, letter o, anillo, anneau, anello, reifen, anel, empty
        circle, hollow circle, rim, circlet, wedding ring, onion ring, round band, hollow disc, rubber ring, tube, bracelet, hollow
        ring, gear, ring shape, inner tube, 环, 圆环, кольцо, خاتم, doughnut shape, circle with hole, quoit"""),
}
COLOURS = {
    "red": _phrases("""
        red, reddish, rot, rouge, rojo, rossa, rosso, rojo, vermelho, ruby, cherry, blood red, fire red, brick red, tomato, tomato
        red, cherry red, vermilion, maroon, rose red, poppy red, cardinal, strawberry, dark red, deep red, wine red, roja, rote, 红色,
        红, красный, احمر, ferrari red, fire engine red, lipstick red, burgundy, redd, ruddy"""),
    "orange": _phrases("""
        orange, orangish, amber, pumpkin, carrot, apricot, burnt orange, orange coloured, orange colored, rust, peach, tiger orange,
        clementine, mandarin, naranja, arancione, laranja, safety orange, sunset orange, copper, saffron, pumpkin orange, 橙色,
        оранжевый, برتقالي, dark orange, light orange, orangefarben, basketball orange"""),
    "yellow": _phrases("""
        yellow, yellowish, gelb, jaune, amarillo, amarilla, giallo, amarelo, lemon yellow, gold, canary, mustard, banana, sunny
        yellow, blonde, buttercup, sunflower, sunshine yellow, pale yellow, light yellow, corn, honey, daffodil, butter yellow, gelbe,
        gelber, 黄色, 黄, желтый, اصفر, gold coloured, gold colored, neon yellow, maize"""),
    "green": _phrases("""
        green, greenish, gruen, grün, grune, vert, verde, lime, lime green, jade, forest green, olive, mint, grass green, bottle
        green, moss, apple green, leaf green, kelly green, pea green, light green, neon green, bright green, pine green, shamrock,
        绿色, 绿, зеленый, اخضر, verte, grüner, grüne, kermit green, fern, avocado"""),
    "cyan": _phrases("""
        cyan, teal, aquamarine, sky blue, sky-blue, turquoise blue, blue green, blue-green, bluish green, pale blue, baby blue, ice
        blue, light-blue, powder blue, celeste, turkis, türkis, ciano, turquesa, aqua blue, greenish blue, icy blue, azure blue, robin
        egg blue, 青色, голубой, سماوي, hellblau, bright cyan, electric cyan, turqoise, lagoon blue"""),
    "blue": _phrases("""
        blue, bluish, blau, bleu, azul, blu, navy, navy blue, cobalt, sapphire, indigo blue, ultramarine, cobalt blue, sapphire blue,
        midnight blue, electric blue, true blue, marine blue, denim, bright blue, medium blue, ink blue, bleue, blaue, blauer, 蓝色,
        蓝, синий, ازرق, ocean blue, prussian blue, blueberry, persian blue, facebook blue"""),
    "purple": _phrases("""
        purple, purplish, lila, violett, violet, morado, morada, viola, roxo, lavender, plum, mauve, grape, lilac, aubergine,
        amethyst, eggplant, indigo, dark purple, light purple, royal purple, bright purple, violet coloured, mulberry, purpur, 紫色,
        紫, фиолетовый, بنفسجي, orchid, pourpre, wisteria, heather purple"""),
    "pink": _phrases("""
        pink, pinkish, rosa, rose, pinky, fuchsia, salmon, bubblegum, bubblegum pink, flamingo, flamingo pink, blush, baby pink, light
        pink, rose coloured, rose colored, coral pink, neon pink, barbie pink, candy pink, hot-pink, pastel pink, cerise, dark pink,
        粉色, 粉红, розовый, وردي, rosado, bright pink, rosafarben, cotton candy pink, piggy pink"""),
}
PLACES = {
    "night sky": _phrases("""
        night, night sky, nighttime, at nighttime, during the night, starry night, stars in the background, starry background, space,
        in space, outer space, cosmos, galaxy, in the galaxy, universe, in the universe, midnight, at midnight, in the dark, dark sky,
        dark night, moonless night, starlit sky, among the stars, with stars behind, late at night, night background, night time, in
        the cosmos, up in space, by night, between the stars, deep space, evening sky, after dark, after sunset, nacht, noche, nuit,
        notte, nachthimmel, 夜空, 夜晚, ночь, ليل, sky full of stars, star field, starfield, milky way, against the stars, black sky,
        nightfall, tonight, the heavens"""),
    "meadow": _phrases("""
        meadow, grass, field, green field, grassland, lawn, on a lawn, in the park, park, countryside, pasture, hills, green hills,
        grassy hill, hillside, in the grass, garden, in a garden, prairie, football pitch, on a pitch, green landscape, rolling hills,
        farmland, wiese, prado, pre, prairie, prato, in a park, over a field, in the fields, green grass, over green grass, savanna,
        village green, on a grassy plain, grass field, grassy meadow, spring meadow, backyard, in the backyard, 草地, 草原, луг, مرج,
        golf course, out in the fields, nature, in nature, outdoors on grass, valley, over the hills, on the green"""),
    "sea": _phrases("""
        sea, ocean, beach, at the beach, on the beach, seaside, water, waves, on the water, over water, coast, shore, by the shore,
        seashore, on the coast, blue sea, bay, in the ocean, in the sea, at the coast, lagoon, lake, by the lake, over a lake,
        underwater, harbour, surf, ocean waves, out at sea, waterfront, sea view, oceanside, meer, mar, mer, mare, strand, playa,
        plage, pacific, atlantic, island, on the high seas, tropical beach, water background, 海, 大海, 海边, море, بحر, the deep,
        open water, over the surf, offshore, marina, tide, by the water, aquatic"""),
    "desert": _phrases("""
        desert, sand, dunes, dune, sand dune, sahara, in the sahara, sandy place, sandy, gobi, arid land, dry land, wasteland, sand
        sea, hot desert, wüste, desierto, deserto, desert landscape, in the dunes, over sand, dusty desert, egypt, barren land, sandy
        ground, sandy hills, desert background, badlands, arizona, 沙漠, пустыня, صحراء, over the dunes, mojave, on a dune, drylands,
        sand hills, across the sands, in the sands, outback, dune sea, sandscape"""),
    "snow": _phrases("""
        snow, snowy, winter, ice, on ice, wintery, wintry, snowfield, snow field, snowy hills, snowy field, arctic, antarctica, in the
        arctic, north pole, south pole, winter wonderland, snowy mountains, white landscape, snow background, blizzard, snowscape,
        tundra, frozen land, glacier, on the ice, wintertime, schnee, nieve, neige, neve, snow covered ground, snow-covered hills,
        snowy scene, icy, icy landscape, cold snowy place, siberia, 雪, 雪地, снег, ثلج, ski slope, on the slopes, alaska, in a winter
        scene, frosty field, powder snow, snowdrift"""),
    "plain studio": _phrases("""
        studio, plain background, empty room, grey background, gray background, blank background, plain studio, room, indoors, inside,
        simple background, plain room, white room, photo studio, neutral background, empty background, plain wall, nothing behind, no
        background, plain backdrop, solid background, studio background, gray backdrop, grey backdrop, empty studio, indoor, in a
        room, plain grey, plain gray, clean background, simple backdrop, against a wall, estudio, fondo gris, fond uni, grey wall,
        gray wall, in a lab, bare room, 灰色背景, 工作室, студия, استوديو, minimal background, featureless background, grey room, gray
        room, seamless backdrop, product shot, neutral studio, in a gallery"""),
}
MOTIONS = {
    "left to right": _phrases("""
        left to right, to the right, rightwards, rightward, goes right, going right, moves right, right, moves rightwards, from left
        to right, heading right, heads right, runs right, runs to the right, moving right, l to r, rolls right, rolling right, slides
        right, slides from left to right, from the left to the right, passes from left to right, goes off to the right, towards the
        right, toward the right, crosses to the right, drifts right, walks to the right, rushes right, shifts right, sliding right,
        glides right, travels right, races right, left-to-right, enters left and exits right, starts left ends right, from left side
        to right side, nach rechts, a la derecha, vers la droite, a destra, para a direita, 从左到右, 向右, направо, слева направо,
        الى اليمين, l->r, eastwards, flying right"""),
    "right to left": _phrases("""
        right to left, to the left, leftwards, leftward, goes left, going left, moves left, left, moves leftwards, from right to left,
        heading left, heads left, runs left, runs to the left, moving left, r to l, rolls left, rolling left, slides left, slides from
        right to left, from the right to the left, passes from right to left, goes off to the left, towards the left, toward the left,
        crosses to the left, drifts left, walks to the left, rushes left, shifts left, sliding left, glides left, travels left, races
        left, right-to-left, enters right and exits left, starts right ends left, from right side to left side, nach links, a la
        izquierda, vers la gauche, a sinistra, para a esquerda, 从右到左, 向左, налево, справа налево, الى اليسار, r->l, westwards,
        flying left"""),
    "rises": _phrases("""
        rises, rising, rise, up, goes up, going up, go up, upwards, upward, moves up, moving up, floats up, floating up, flies up,
        ascends, ascending, lifts off, lifting off, takes off, taking off, shoots up, soars, soaring, soar, climbs, climbing,
        levitates, levitating, to the top, from bottom to top, bottom to top, lifts up, rises up, rocketing up, gets higher, higher
        and higher, moves to the top, drifts up, drifting up, goes higher, rising up, hovers up, climbs up, ascend, ascent, goes to
        the top, steigt, steigt auf, nach oben, sube, monte, sale, sobe, 上升, 升起, поднимается, вверх, يرتفع, elevates, going
        upwards, flies into the air, into the sky, floats away up, launches"""),
    "falls": _phrases("""
        falls, falling, fall, down, goes down, going down, go down, downwards, downward, moves down, moving down, drops, dropping,
        drop, sinks, sinking, sink, descends, descending, descend, plummets, plummeting, plunges, plunging, falls down, falling down,
        tumbles, tumbling, comes down, coming down, to the bottom, from top to bottom, top to bottom, lands, landing, dives, crashes
        down, drifts down, drifting down, gets lower, lower and lower, moves to the bottom, falls from the sky, falling from above,
        descent, fällt, fällt runter, nach unten, cae, tombe, cade, cai, 下落, 掉下, падает, вниз, يسقط, going downwards, collapses
        down, slips down, fell, dropped, free fall"""),
    "bounces": _phrases("""
        bounces, bouncing, bounce, bouncy, hops, hopping, hop, jumps, jumping, jump, up and down, bounces up and down, boing, bouncing
        up and down, jumping up and down, leaps, leaping, springs, springing, bobs, bobbing, dribbles, dribbling, dribbled, jumps
        around, hops around, rebounds, rebounding, bouncing around, trampolines, skips, skipping, bounces off the ground, goes up and
        down, moving up and down, jumping around, bops, hüpft, springt, rebota, saltando, rebondit, saute, rimbalza, pula, 弹跳, 跳,
        прыгает, скачет, يقفز, bounced, keeps bouncing, jumpy, hippity hop, ricochets, vaulting"""),
    "grows": _phrases("""
        grows, growing, grow, bigger, larger, gets bigger, getting bigger, expands, expanding, expand, inflates, inflating, inflate,
        swells, swelling, enlarges, enlarging, becomes bigger, becoming bigger, becomes larger, blows up in size, zooms in, zoom in,
        comes closer, coming closer, approaches, approaching, scales up, scaling up, increases in size, increasing in size, bigger and
        bigger, turns huge, becomes huge, getting large, gets huge, growing larger, balloons in size, fattens, wächst, crece, grandit,
        cresce, 变大, 长大, растет, увеличивается, يكبر, widens, dilates, grew, from small to big, small to large, gets closer,
        doubling in size, puffs up, gains size"""),
    "shrinks": _phrases("""
        shrinks, shrinking, shrink, smaller, gets smaller, getting smaller, becomes smaller, becoming smaller, contracts, contracting,
        deflates, deflating, dwindles, dwindling, diminishes, diminishing, zooms out, zoom out, goes away, moves away, scales down,
        scaling down, decreases in size, decreasing in size, smaller and smaller, turns tiny, becomes tiny, reduces, reducing in size,
        getting small, gets little, compresses, minimizes, schrumpft, encoge, retrecit, si rimpicciolisce, encolhe, 变小, 缩小,
        уменьшается, сжимается, يصغر, narrows, shrank, from big to small, large to small, recedes, receding, gets farther away,
        halving in size, dwindles away, loses size, shrivels"""),
    "spins": _phrases("""
        spins, spinning, spin, rotates, rotating, rotate, rotation, turns, turning, twirls, twirling, twirl, whirls, whirling,
        revolves, revolving, goes round, goes around, goes round and round, round and round, spins around, spinning around, turns
        around, pirouettes, gyrates, gyrating, in circles, turns in place, swivels, swiveling, swirls, swirling, pivots, pivoting,
        wheels around, does a spin, does a twirl, rolling in place, cartwheels, dreht sich, gira, tourne, ruota, rotiert, 旋转, 转圈,
        вращается, крутится, يدور, spun, spinny, like a top, turntable, rolling around itself, rotates around itself, windmilling,
        orbiting itself, full turn"""),
}
PACES = {
    "slowly": _phrases("""
        slowly, slow, slow motion, in slow motion, slo-mo, slowmo, gently, gentle, lazily, lazy, calmly, leisurely, softly, gradually,
        at a slow pace, unhurried, unhurriedly, bit by bit, little by little, sluggishly, sluggish, at a snail's pace, very slow,
        really slow, quietly, peacefully, smoothly and slowly, steadily, carefully, taking its time, langsam, lento, lentamente,
        lentement, devagar, 慢慢, 缓慢, медленно, ببطء, relaxed, at low speed, low speed, so slowly, kinda slow, dreamily, like a
        snail, slow pace, barely moving, crawling pace, easy pace, sleepily, without any hurry, without haste, not fast, no rush, in
        no hurry, with no hurry, tranquil, mellow, not in a hurry, chilled, super slow motion, ever so slowly, unrushed, at walking
        pace, drowsily, time lapse slow, patiently, serenely"""),
    "quickly": _phrases("""
        quickly, quick, fast, rapidly, rapid, speedy, speedily, swiftly, swift, at high speed, high speed, very fast, really fast,
        super fast, hurriedly, in a hurry, zippy, zooming, quick as lightning, like lightning, full speed, at full speed, rushing,
        briskly, brisk, hastily, in a flash, as fast as possible, at top speed, lightning fast, speeding, schnell, rapido, rapide,
        vite, veloce, rapidamente, 快速, 很快, быстро, بسرعة, so fast, quick pace, fast paced, turbo, like crazy, wildly,
        energetically, vigorously, nimbly, like a rocket, superfast, pronto, faster, urgent, in no time, without delay, right away,
        instantly, with great speed, rushed, hurrying, at pace, flat out, hurry, in haste, breakneck, double time, like the wind"""),
}
OUTSIDE = _phrases("""
        elephant, dog, cat, dragon, car, train, man, woman, child, boy, girl, robot, astronaut, bird, fish, horse, tree, house,
        castle, boat, ship, plane, rocket ship, flower, apple, pizza, guitar, city, street, forest, volcano, mountain, river, bridge,
        road, kitchen, restaurant, office, school, library, church, rain, fog, fire, smoke, explosion, sings, dances, eats, reads,
        cooks, swims, fights, talks, laughs, sleeps, plays, black, white, brown, silver, bronze, transparent, rainbow, striped,
        dotted, metallic, wooden, glass, hexagon, pentagon, octagon, cylinder, oval, ellipse, diamond, spiral, arrow, zigzag,
        diagonally, sideways, explodes, melts, burns, vanishes, glows, blinks, three, four, five, ten, many, twins, cinematic,
        dramatic lighting, close up, drone shot, camera pans, 4k, photorealistic, masterpiece, anime, watercolour, oil painting,
        portrait, wearing a hat, sword, knight, wizard, princess, zombie, vampire, unicorn, monkey, tiger, lion, bear, rabbit, fox,
        wolf, snake, spider, butterfly, bee, penguin, owl, dolphin, whale, shark, octopus, crab, dinosaur, bicycle, motorcycle, truck,
        bus, helicopter, submarine, spaceship, skyscraper, tower, window, door, table, chair, lamp, book, clock, phone, computer,
        keyboard, camera, umbrella, hat, shoe, cake, bread, coffee, tea, cheese, banana split, mirror, piano, drum, violin, king,
        queen, soldier, doctor, teacher, chef, dancer, baby, grandma, ghost, alien, monster, skeleton, pirate, ninja, samurai, cowboy,
        jungle, cave, temple, market, stadium, subway, airport, hospital, museum, swimming pool, moon, sunrise, lightning, tornado,
        earthquake, wind, flag, balloon animal, teapot, candle, lantern, fireworks, confetti, soap, paint, mud, dust, leaves, crown,
        sad, happy, angry, old, young, wet, dirty, broken, behind a fence, on a table, in a box, through a tunnel, with a friend, in
        paris, in tokyo, on mars, for my birthday, drinking, driving, painting, typing, kissing, waving, walks, shakes, opens, closes,
        breaks, splits, teleports, changes colour, flickers, hund, katze, perro, gato, chien, chat""")
"""What the world has not."""
FILLERS = _phrases("""
        i'd love to see, i would love to have, would love to watch, love it, i love, i'd like to see, let's see, let's have, can i
        get, could you do, how about, what about, so there's, so there is, here comes, look at, look, a nice clip where, a scene
        where, a scene in which, a story about, both, all of it, do, does, do me, give us, let me have, i need, i wish for, my wish
        is, you know, a few seconds of, short clip with, something with, a shot of, please, pls, i want, i would like, make, show me,
        give me, create, can you make, a video of, video, clip, a clip with, animation, of, it, just, some, kind of, very nice, cool,
        that, which is, there is, with, like, and then, ok, hey, thanks, want, need, draw, generate, make it, really, so, uh, um,
        something like, maybe, basically, simply, a short film about, footage, movie, gif, loop of, let it, let there be, imagine,
        picture, see, watch, small, big, little, cute, shiny, nice, lovely, simple, beautiful, tiny, huge, one, single, the, a, an,
        its, is, are, while, there, as it, being""")
"""What says nothing about the picture."""


def tables() -> dict[str, dict[str, tuple[str, ...]]]:
    """All phrases by question and fact, the captions' own among them (lower case)."""
    moves = {motion: tuple(form for forms in captions.MOVES[motion] for form in forms) for motion in captions.MOVES}
    own: dict[str, Mapping[str, tuple[str, ...]]] = {
        "shape": captions.NOUNS, "colour": captions.HUES, "background": captions.PLACES, "motion": moves, "pace": captions.PACES}
    wider = {"shape": SHAPES, "colour": COLOURS, "background": PLACES, "motion": MOTIONS, "pace": PACES}
    return {name: {fact: tuple(dict.fromkeys((*own[name][fact], *wider[name][fact]))) for fact in own[name]} for name in own}
