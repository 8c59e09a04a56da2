"""The conditions by name: which control sits at which level."""

from selfreg.control.between.early_stop import EARLY_STOP
from selfreg.control.between.naive import NAIVE
from selfreg.control.protocol import Condition
from selfreg.control.within.fixed import FIXED

CONDITIONS: dict[str, Condition] = {
    "A0": Condition(FIXED, NAIVE),
    "ES": Condition(FIXED, EARLY_STOP),
}
