"""
Experiment lists with their images, of which some may be missing.

dxtbx opens the first file of an image set to know its format, and stops where it is not there.  Here the format is that
of the first file that is there; where there is none, of an image set, none of its images can be read, which is told
when they are.  Masks that a format brings along are those of the file that was opened.
"""

from __future__ import annotations

import json
import os

import dxtbx.format.Registry
from dials.util import Sorry
from dxtbx.format.image import ImageBool
from dxtbx.imageset import ImageSetFactory
from dxtbx.model.experiment_list import ExperimentListDict
from dxtbx.sequence_filenames import template_image_range
from dxtbx.serialize.filename import resolve_path
from dxtbx.util import get_url_scheme


def open_experiments(path: str):
    """The experiments of a .expt file with their images; whatever dxtbx raises for a file that it can't open."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    return _WithMissingImages(content, check_format=True, directory=os.path.dirname(os.path.abspath(path))).decode()


def check_images(experiments, paths: str) -> None:
    """Raises Sorry where experiments name no images, or none of them is there."""
    if any(experiment.imageset is None for experiment in experiments):
        raise Sorry(f"{paths} names no images: give experiments that were made from images.")
    names = image_names(experiments)
    if names and not any(os.path.exists(name) for name in names):
        raise Sorry(f"None of the images of {paths} exists (as {names[0]}): they must lie where the file says.")


def image_names(experiments) -> list[str]:
    """The files of the images of experiments that have them, each once."""
    sets = {id(experiment.imageset): experiment.imageset for experiment in experiments if experiment.imageset}
    return list(dict.fromkeys(name for imageset in sets.values() for name in imageset.paths() if name))


class _WithMissingImages(ExperimentListDict):
    def _make_stills(self, imageset, format_kwargs=None):
        if any(get_url_scheme(name) for name in imageset["images"]):
            return super()._make_stills(imageset, format_kwargs)
        names = [resolve_path(name, directory=self._directory) for name in imageset["images"]]
        if os.path.exists(names[0]):
            return super()._make_stills(imageset, format_kwargs)
        known, instance = _format(names)
        found = ImageSetFactory.make_imageset(
            names,
            known,
            check_format=False,
            single_file_indices=imageset.get("single_file_indices"),
            format_kwargs=format_kwargs,
        )
        return _with_mask(found, instance)

    def _make_sequence(self, imageset, beam=None, detector=None, goniometer=None, scan=None, format_kwargs=None):
        models = {"beam": beam, "detector": detector, "goniometer": goniometer, "scan": scan}
        template = resolve_path(imageset["template"], directory=self._directory)
        if scan is None:
            first, last = template_image_range(template)
        else:
            first, last = scan.get_image_range()
        names = [_filled(template, number) for number in range(first, last + 1)]
        if os.path.exists(names[0]) or get_url_scheme(template):
            return super()._make_sequence(imageset, format_kwargs=format_kwargs, **models)
        known, instance = _format(names)
        if known is None and "single_file_indices" in imageset:
            from dxtbx.format.FormatMultiImage import FormatMultiImage as known
        found = ImageSetFactory.make_sequence(
            template,
            list(range(first, last + 1)),
            format_class=known,
            check_format=False,
            format_kwargs=format_kwargs,
            **models,
        )
        return _with_mask(found, instance)


def _filled(template: str, number: int) -> str:
    """The name of an image: the number in place of the # of the template."""
    n = template.count("#")
    return template.replace("#" * n, f"{number:0{n}d}") if n else template


def _format(names):
    """The format of the first of the files that is there, and that file opened by it; None, None without."""
    for name in names:
        if os.path.exists(name):
            known = dxtbx.format.Registry.get_format_class_for_file(name)
            if known is not None:
                return known, known(name)
    return None, None


def _with_mask(imageset, instance):
    mask = instance.get_static_mask() if instance is not None else None
    if mask is not None:
        imageset.external_lookup.mask.data = ImageBool(mask if isinstance(mask, tuple) else (mask,))
    return imageset
