"""The imports that each data set's own harness gives answers, and how it compares outputs."""

from selfreg.run.records import Checker

# APPS and the sets made from it: TACO, Eurus-2, PrimeIntellect, DeepCoder. numpy is left out.
APPS_SETUP = """\
import bisect, collections, copy, fractions, functools, heapq, io, itertools, math, operator, os
import random, re, string, sys, time
from bisect import bisect_left, bisect_right, insort
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from copy import deepcopy
from functools import cache, cmp_to_key, lru_cache, reduce
from heapq import *
from itertools import accumulate, chain, combinations, groupby, permutations, product
from math import ceil, cos, exp, fabs, factorial, floor, gcd, inf, log, log2, pi, sin, sqrt, tan
from typing import Any, Dict, List, Optional, Set, Tuple, Union
"""

# LiveCodeBench. `builtins` comes last, so that an answer gets the builtin open and pow.
LCB_SETUP = """\
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from typing import *
from builtins import *
import bisect, collections, copy, datetime, functools, heapq, io, itertools, json, math, operator
import random, re, statistics, string, sys, time
sys.setrecursionlimit(50000)
"""

# Compares line by line, as np.allclose does.
APPS_CHECKER = Checker("lines", absolute=1e-5, relative=1e-5)
# Compares words regardless of case. Two numbers are equal within 1e-5.
CONTESTS_CHECKER = Checker("floats", absolute=1e-5, relative=0.0, caseless=True)
# Compares lines word by word. Two numbers are equal if they have the same value.
LCB_CHECKER = Checker("lines", absolute=0.0, relative=0.0)
# Compares lines regardless of case. Two numbers are equal within 1e-5.
FUSION_CHECKER = Checker("lines", absolute=1e-5, relative=1e-5, caseless=True)
# Codeforces' usual checker, for problems without a checker of their own.
CODEFORCES_CHECKER = Checker("tokens")
