"""
The one door from PHIL to the programs: phil/*.phil -> a frozen Request a program, which has all of its parameters.

    scope.py     finds and parses phil/*.phil, and knows the old names of parameters
    binding.py   phil() binds a field of a Request to the path of its parameter, from_scope() fills it
    effects.py   which parameters have no effect beside the others
    limits.py    the values that a parameter can have, for the command line and for a Request made in Python
    checks.py    limits that cross

and one module a program with its Request.  Every parameter is bound once, by the path that PHIL has it under, and in
PHIL's order; the defaults are PHIL's.  A Request holds plain Python values, in the units of the algorithms: angles in
radians, choices as words, symbols of space groups.  This room imports no other one, and no other one knows PHIL.
"""
