"""The files below a URI, from a single listing: no request per image, on S3 or on disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Literal

from vsa_ray import storage
from vsa_ray.errors import UserError

Format = Literal["auto", "flickr", "coco", "karpathy", "csv", "folder"]

TOKEN_FILES = ("*.token", "*.token.txt")
COCO_FILES = ("captions*.json",)
KARPATHY_FILES = ("dataset*.json",)
CSV_FILES = ("captions*.csv", "captions*.txt")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Suffixes of the formats that images/decoding.py decodes."""


class Layout:
    """The contents of a directory: its images, by folder and name, and its other files.

    Raises:
        UserError: it is not a directory, or it is empty.
    """

    def __init__(self, uri: str) -> None:
        if storage.exists(uri) and not storage.is_directory(uri):
            raise UserError(f"{uri} is a file; give the directory that holds the corpus")
        self.uri = storage.absolute(uri)
        self.folders: dict[str, dict[str, str]] = defaultdict(dict)
        """Folder -> image name -> URI."""
        self.documents: list[str] = []
        """URIs of the files that are not images."""
        for file in storage.list_files(uri, recursive=True):
            folder, _, name = file.rpartition("/")
            if name.startswith("."):  # files of the operating system, such as ._photo.jpg
                continue
            if name.lower().endswith(IMAGE_SUFFIXES):
                self.folders[folder][name] = file
            else:
                self.documents.append(file)
        if not self.folders and not self.documents:
            raise UserError(
                f"{uri}: no files below it; give the directory that holds the corpus "
                "(for S3, check the bucket and the prefix)"
            )

    def matching(self, patterns: Collection[str]) -> list[str]:
        """URIs of the documents whose names match one of the patterns, ignoring case."""
        return [
            file
            for file in self.documents
            if any(fnmatch(PurePosixPath(file).name.lower(), pattern) for pattern in patterns)
        ]

    def the_file(self, what: str, patterns: Collection[str]) -> str:
        """The only document of its kind.

        Raises:
            UserError: there is none, or more than one.
        """
        # Flickr8k.lemma.token.txt, next to Flickr8k.token.txt, has lemmas, not sentences.
        found = [file for file in self.matching(patterns) if ".lemma." not in file]
        if len(found) == 1:
            return found[0]
        what = f"{what} ({' or '.join(patterns)})"
        if found:
            raise UserError(
                f"{self.uri}: {len(found)} files could be the {what}: {', '.join(found)}; "
                "give a directory with one of them"
            )
        raise UserError(f"{self.uri}: no {what} below it; is this the right directory and format?")

    def images(self) -> dict[str, str]:
        """Path below the directory -> URI."""
        return {
            file.removeprefix(self.uri).lstrip("/"): file
            for folder in self.folders.values()
            for file in folder.values()
        }

    def image_folder(self, names: Collection[str]) -> dict[str, str]:
        """Name -> URI for the folder with the most of the named images; empty if there is none."""
        wanted = set(names)
        candidates = [folder for folder in self.folders.values() if wanted & folder.keys()]
        return max(candidates, key=lambda folder: len(wanted & folder.keys()), default={})

    def named(self, names: set[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Resolve the names and paths by which a file refers to images.

        A path may be relative to this directory or to one above it. A name, or a path without an
        image, is looked up in the folder with the most of them.

        Returns:
            Name or path -> image_id: the image's name, or its path if two images share the name;
            and image_id -> URI of all images in the folders of those that were found.
        """
        paths = self.images()
        found = {name: uri for name in names if (uri := _at_end_of(name, paths))}
        others = {name: PurePosixPath(name).name for name in names - found.keys()}
        folder = self.image_folder(others.values())
        found |= {name: folder[file] for name, file in others.items() if file in folder}
        folders = {uri.rpartition("/")[0] for uri in found.values()}
        used = Counter(file for each in folders for file in self.folders[each])
        id_of = {
            uri: path if used[file := PurePosixPath(path).name] > 1 else file
            for path, uri in paths.items()
            if uri.rpartition("/")[0] in folders
        }
        ids = {name: id_of[found[name]] if name in found else others[name] for name in names}
        return ids, {image_id: uri for uri, image_id in id_of.items()}

    def format(self) -> Format:
        """The layout of these files.

        Karpathy's JSON takes precedence: it is added to corpora that have their own annotations.

        Raises:
            UserError: it is none of the known layouts.
        """
        if self.matching(KARPATHY_FILES):
            return "karpathy"
        if self.matching(TOKEN_FILES):
            return "flickr"
        if self.matching(COCO_FILES):
            return "coco"
        if self.matching(CSV_FILES):
            return "csv"
        if self.folders:
            return "folder"
        raise UserError(
            f"{self.uri}: not a corpus; looked for {' or '.join(TOKEN_FILES)} (Flickr), "
            f"{COCO_FILES[0]} (COCO), {KARPATHY_FILES[0]} (Karpathy), {' or '.join(CSV_FILES)} "
            f"and images ({', '.join(IMAGE_SUFFIXES)})"
        )


def _at_end_of(path: str, paths: Mapping[str, str]) -> str | None:
    """The URI for the longest suffix of a path that is in `paths` and includes a folder."""
    parts = PurePosixPath(path).parts
    ends = ("/".join(parts[first:]) for first in range(len(parts) - 1))
    return next((paths[end] for end in ends if end in paths), None)
