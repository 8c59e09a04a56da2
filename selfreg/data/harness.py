"""What each data set's own harness gives every answer: imports, and how it compares outputs."""

from selfreg.run.records import Checker

# APPS, and what was made from it: TACO, Eurus-2, PrimeIntellect, DeepCoder. numpy aside.
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

# LiveCodeBench; `builtins` comes last, so that its open and pow are those that an answer gets.
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

# np.allclose, by line.
APPS_CHECKER = Checker("lines", absolute=1e-5, relative=1e-5)
# Words in lower case; two numbers within 1e-5.
CONTESTS_CHECKER = Checker("floats", absolute=1e-5, relative=0.0, caseless=True)
# Lines of words; two numbers of the same value.
LCB_CHECKER = Checker("lines", absolute=0.0, relative=0.0)
# Lines in lower case; two numbers within 1e-5.
FUSION_CHECKER = Checker("lines", absolute=1e-5, relative=1e-5, caseless=True)
# Codeforces' usual one for problems without a checker of their own.
CODEFORCES_CHECKER = Checker("tokens")
