"""How the pocket refiner is made: the ways people say things, wishes from them, and a small reader trained on those."""
