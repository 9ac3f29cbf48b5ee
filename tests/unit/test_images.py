from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from odd_pictures import bomb
from PIL import Image

from vsa_ray import images, schema, storage
from vsa_ray.images import ImageConfig, ImageError, LoadImages, decode, load, pixels_of
from vsa_ray.images.failures import kind_of

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def picture() -> Image.Image:
    """6 x 4, red but for the blue upper left quarter, so that every turn of it shows."""
    image = Image.new("RGB", (6, 4), RED)
    image.paste(BLUE, (0, 0, 3, 2))
    return image


def file(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def decoded(data: bytes) -> images.Pixels:
    pixels = decode(data, max_pixels=10_000)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


def table(rows: dict[str, str]) -> pa.Table:
    return pa.table(
        {"image_id": list(rows), "uri": list(rows.values()), "split": ["dev"] * len(rows)},
        schema=schema.IMAGES,
    )


def damaged(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=10_000)
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_decode_lossless(format: str) -> None:
    np.testing.assert_array_equal(decoded(file(picture(), format)), np.asarray(picture()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_decode_lossy(format: str) -> None:
    big = picture().resize((96, 64), Image.Resampling.NEAREST)
    pixels = decoded(file(big, format, quality=95)).astype(int)
    assert abs(pixels - np.asarray(big)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_upright(orientation: int) -> None:
    upright = np.asarray(picture())
    # What a camera stores, so that the orientation brings it back to upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(decoded(data), upright)


@pytest.mark.parametrize("orientation", [0, 9])
def test_decode_ignores_an_orientation_that_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decoded(file(picture(), exif=exif)).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), WHITE),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("I;16", 100 * 256 + 7, (100, 100, 100)),
    ],
)
def test_decode_modes_of_png(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    pixels = decoded(file(Image.new(mode, (3, 2), colour)))
    assert pixels.shape == (2, 3, 3)
    assert (pixels == expected).all()


def test_decode_32_bit_grey() -> None:
    data = file(Image.fromarray(np.array([[-5, 100 * 257, 65535]], np.int32)), "TIFF")
    assert decoded(data)[0, :, 0].tolist() == [0, 100, 255]


def test_decode_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert decoded(file(image))[0].tolist() == [list(RED), list(BLUE)]
    assert decoded(file(image, transparency=1))[0].tolist() == [list(RED), list(WHITE)]


def test_decode_cmyk_jpeg() -> None:
    pixels = decoded(file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).astype(int)
    assert abs(pixels - RED).max() < 4


def test_decode_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (5, 3), BLUE)]
    data = file(picture(), "GIF", save_all=True, append_images=frames)
    np.testing.assert_array_equal(decoded(data), np.asarray(picture()))


def test_decode_one_pixel() -> None:
    assert decoded(file(Image.new("RGB", (1, 1), RED))).tolist() == [[list(RED)]]


def test_decode_files_that_are_not_images() -> None:
    assert damaged(b"").kind == "empty"
    assert damaged(b"<html>404</html>").kind == "not_an_image"
    assert "b'<html>40'" in str(damaged(b"<html>404</html>"))


def test_decode_runs_no_postscript() -> None:
    assert damaged(file(picture(), "EPS")).kind == "not_an_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "PPM"])
def test_decode_truncated(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = file(Image.fromarray(noise), format)
    assert damaged(data[: len(data) * 2 // 3]).kind == "truncated"


def test_decode_damaged() -> None:
    data = bytearray(file(picture()))
    data[data.index(b"IDAT") + 8] ^= 0xFF
    assert damaged(bytes(data)).kind == "unreadable"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", images.FORMATS)
def test_decode_damaged_anyhow(format: str) -> None:
    """Whatever is wrong with a file, the caller sees an ImageError or pixels."""
    rng = np.random.default_rng(0)
    data = np.frombuffer(file(picture().resize((24, 16)), format), np.uint8)
    kinds = set()
    for _ in range(300):
        hurt = data.copy()
        places = rng.integers(0, len(hurt), rng.integers(1, 5))
        hurt[places] = rng.integers(0, 256, len(places), np.uint8)
        try:
            decoded(hurt[: rng.integers(1, len(hurt) + 1)].tobytes())
        except ImageError as error:
            kinds.add(error.kind)
    assert len(kinds) > 1
    assert kinds <= {"not_an_image", "truncated", "unreadable", "too_large"}


@pytest.mark.parametrize("side", [101, 100_000])
def test_decode_refuses_by_the_header(side: int) -> None:
    assert damaged(bomb(side, side)).kind == "too_large"
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    assert limit * 2 == images.PILLOW_LIMIT


def test_image_error_pickles() -> None:
    error = pickle.loads(pickle.dumps(ImageError("missing", "a.jpg: gone")))
    assert (error.kind, str(error)) == ("missing", "a.jpg: gone")


def test_load_images_keeps_every_row(tmp_path: Path) -> None:
    contents = {
        "a": file(picture()),
        "empty": b"",
        "text": b"hello",
        "big": file(Image.new("RGB", (200, 200))),
        "tall": file(picture().rotate(90, expand=True)),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    rows = {name: str(tmp_path / name) for name in [*contents, "gone"]} | {"web": "http://a/b.jpg"}
    loaded = LoadImages(ImageConfig(max_pixels=10_000, downloads=2))(table(rows))
    assert loaded.schema == images.LOADED
    assert loaded["image_id"].to_pylist() == list(rows)
    assert dict(zip(rows, loaded["status"].to_pylist(), strict=True)) == {
        "a": "ok",
        "empty": "empty",
        "text": "not_an_image",
        "big": "too_large",
        "tall": "ok",
        "gone": "missing",
        "web": "unreadable",
    }
    assert loaded["width"].to_pylist() == [6, 0, 0, 0, 4, 0, 0]
    assert loaded["height"].to_pylist() == [4, 0, 0, 0, 6, 0, 0]
    errors = loaded["error"].to_pylist()
    assert [error is None for error in errors] == [name in ("a", "tall") for name in rows]
    assert "200 x 200 is over 10000 pixels" in errors[3]
    views = pixels_of(loaded)
    assert [view is None for view in views] == [error is not None for error in errors]
    np.testing.assert_array_equal(views[0], np.asarray(picture()))


def test_load_images_from_bytes() -> None:
    rows = table({"a": "nowhere/a", "b": "nowhere/b"})
    rows = rows.append_column("bytes", pa.array([file(picture()), None], pa.binary()))
    loaded = LoadImages(ImageConfig())(rows)
    assert loaded["status"].to_pylist() == ["ok", "missing"]
    loaded = LoadImages(ImageConfig(max_bytes=9))(rows)
    assert loaded["status"].to_pylist() == ["too_large", "missing"]


def test_load_images_of_no_rows() -> None:
    loaded = LoadImages(ImageConfig())(table({}))
    assert loaded.schema == images.LOADED
    assert pixels_of(loaded) == []


def test_pixels_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file(picture()))
    loaded = LoadImages(ImageConfig())(table({"a": str(tmp_path / "a.png")}))
    (view,) = pixels_of(loaded)
    assert view is not None
    assert np.shares_memory(view, np.frombuffer(loaded["pixels"].chunk(0).buffers()[2], np.uint8))


def test_pixels_of_parts_of_a_table(tmp_path: Path) -> None:
    rows = {}
    for i in range(4):
        rows[str(i)] = str(tmp_path / f"{i}.png")
        Image.new("RGB", (i + 1, 2), (i, i, i)).save(rows[str(i)])
    loaded = LoadImages(ImageConfig())(table(rows))
    views = pixels_of(pa.concat_tables([loaded.slice(2), loaded.slice(0, 2)]))
    assert [view.shape[1] for view in views if view is not None] == [3, 4, 1, 2]
    assert [view.max() for view in views if view is not None] == [2, 3, 0, 1]


def test_files_over_the_limit(tmp_path: Path) -> None:
    data = file(picture())
    (tmp_path / "a.png").write_bytes(data)
    uri = str(tmp_path / "a.png")
    assert load(uri, ImageConfig(max_bytes=len(data))).shape == (4, 6, 3)
    with pytest.raises(ImageError, match=f"a.png has {len(data)} bytes") as caught:
        load(uri, ImageConfig(max_bytes=len(data) - 1))
    assert caught.value.kind == "too_large"


def test_load_images_from_s3(s3: str) -> None:
    storage.write_bytes(f"{s3}/deep/a b#1.png", file(picture()))
    uris = {"a": f"{s3}/deep/a b#1.png", "gone": f"{s3}/gone.png", "nowhere": "s3://no-such/x.png"}
    loaded = LoadImages(ImageConfig())(table(uris))
    assert loaded["status"].to_pylist() == ["ok", "missing", "missing"]


@pytest.fixture
def forbidding_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 endpoint that denies everything."""

    class Forbid(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbid)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield "s3://bucket"
    server.shutdown()
    server.server_close()


def test_denied_images_say_so(forbidding_s3: str) -> None:
    with pytest.raises(ImageError, match="ACCESS_DENIED") as caught:
        load(f"{forbidding_s3}/a.png", ImageConfig())
    assert caught.value.kind == "access_denied"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("a"), "missing"),
        (PermissionError("a"), "access_denied"),
        (TimeoutError("a"), "timeout"),
        (OSError("AWS Error NETWORK_CONNECTION: curlCode: 28, Timeout was reached"), "timeout"),
        (OSError("AWS Error UNKNOWN (HTTP status 500) during GetObject"), "unreadable"),
        (OSError("key 'timeout' in 'b': AWS Error SLOW_DOWN during GetObject"), "unreadable"),
        (NotADirectoryError("a"), "missing"),
    ],
)
def test_kinds_of_failures_of_storage(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


@pytest.mark.parametrize("field", ["downloads", "max_pixels", "max_bytes", "max_side"])
def test_config_refuses(field: str) -> None:
    with pytest.raises(ValueError, match=rf"ImageConfig\.{field} must be >= 1, got 0"):
        ImageConfig(**{field: 0})


def test_config_refuses_what_pillow_refuses() -> None:
    with pytest.raises(ValueError, match=r"ImageConfig\.max_pixels must be <= 178956970"):
        ImageConfig(max_pixels=10**9)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_config_refuses_seconds(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"ImageConfig\.retry_seconds must be >= 0 and finite"):
        ImageConfig(retry_seconds=seconds)


def test_rows_that_failed_before_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(file(picture()))
    uri = str(tmp_path / "a.png")
    rows = table({"a": uri, "b": uri, "c": uri})
    rows = rows.append_column("status", pa.array(["ok", "crashed", None]))
    loaded = LoadImages(ImageConfig())(rows)
    assert loaded["status"].to_pylist() == ["ok", "crashed", "ok"]
    assert loaded["error"].to_pylist() == [None, None, None]
    rows = rows.append_column("error", pa.array([None, "killed a worker", "old news"]))
    loaded = LoadImages(ImageConfig())(rows)
    assert loaded["error"].to_pylist() == [None, "killed a worker", None]
    assert loaded["width"].to_pylist() == [6, 0, 6]
    assert [view is None for view in pixels_of(loaded)] == [False, True, False]


def test_rows_without_a_uri(tmp_path: Path) -> None:
    rows = pa.table({"image_id": ["a", "b"], "uri": [None, ""], "split": ["", ""]}, schema.IMAGES)
    assert LoadImages(ImageConfig())(rows)["status"].to_pylist() == ["missing", "missing"]


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_are_shrunk(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(picture().resize((300, 200), Image.Resampling.NEAREST), format, exif=exif)
    rows = table({"a": ""}).append_column("bytes", pa.array([data]))
    (row,) = LoadImages(ImageConfig(max_side=60))(rows).to_pylist()
    sides = [row[name] for name in ("width", "height", "pixels_width", "pixels_height")]
    assert sides == ([300, 200, 60, 40] if orientation == 1 else [200, 300, 40, 60])
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(row["pixels_height"], -1, 3)
    whole = decode(data, max_pixels=10**6)
    assert whole.shape == (row["height"], row["width"], 3)
    assert abs(pixels[2::5, 2::5].astype(int) - whole[12::25, 12::25]).max() < 20
