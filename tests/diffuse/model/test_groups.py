"""Groups of atoms: runs of residues, domains, what is marked or selected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pair_sums import make_atoms

from dials_postrefine.diffuse.model.groups import domains_of, marked, runs_of_residues, selected


def test_runs_of_residues_stay_in_their_chain():
    atoms = make_atoms()  # four residues of three atoms, two of each chain
    one = runs_of_residues(atoms, 1)
    assert one.number.tolist() == np.repeat(range(4), 3).tolist() and one.names == ("A 1", "A 2", "B 1", "B 2")
    assert runs_of_residues(atoms, 2).names == ("A 1-2", "B 1-2")
    assert runs_of_residues(atoms, 9).number.tolist() == [0] * 6 + [1] * 6
    np.testing.assert_allclose(one.places(atoms)[1], atoms.xyz[3:6].mean(axis=0))


def test_domains_are_what_hangs_together():
    """Three balls of residues, apart from each other, whose residues are mixed in the file."""
    random = np.random.default_rng(1)
    centre = np.array([[0.0, 0, 0], [22.0, 0, 0], [0, 23.0, 0]])
    atoms, of = make_atoms(n=24), np.arange(24) % 3
    xyz = centre[of] + random.normal(size=(24, 3)) * 3.0
    atoms = replace(atoms, sites=xyz @ np.linalg.inv(atoms.orthogonal).T, residue=np.arange(24))
    found = domains_of(atoms, 3)
    assert found.number.tolist() == of.tolist() and found.names == ("domain 1", "domain 2", "domain 3")
    assert len(domains_of(atoms, 1)) == 1 and len(domains_of(atoms, 100)) == 24
    assert set(np.bincount(domains_of(atoms, 6).number)) <= set(range(1, 9))


def test_what_is_marked_and_what_is_between():
    atoms = make_atoms()
    helix, strand = np.isin(np.arange(12), [3, 4, 5]), np.isin(np.arange(12), [9, 10, 11])
    found = marked(atoms, [strand, helix], ["strand", "helix"])
    assert found.number.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert found.names == ("between 1", "helix", "between 2", "strand")
    chosen = selected([helix, strand], ["x", "y"])
    assert chosen.number.tolist() == [-1] * 3 + [0] * 3 + [-1] * 3 + [1] * 3 and chosen.names == ("x", "y")
    np.testing.assert_allclose(chosen.places(atoms)[1], atoms.xyz[9:].mean(axis=0))
