"""What the page for filling is tested on: a saved generator, photographs, and the page in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from browsing import complaints, until
from PIL import Image

from inpaint.data.synthetic.landscapes import render
from inpaint.models.generator import Generator, GeneratorConfig

SIZE_PX = 32


def make_model(folder: Path) -> Path:
    """A small generator of both ends that knows its size."""
    torch.manual_seed(0)
    generator = Generator(
        GeneratorConfig(architecture="dilated", width=4, norm="none", image_size=SIZE_PX, hole_max_px=12)
    )
    generator.reconstruction = {name: value + 0.05 for name, value in generator.state_dict().items()}
    generator.save_pretrained(folder)
    return folder


def make_photo(path: Path, width: int = 96, height: int = 64, **options: Any) -> Path:
    pixels = render(7, np.arange(1), 128)[0]
    Image.fromarray(pixels).resize((width, height)).save(path, **options)
    return path


class Page:
    """The page in a window of a real browser, and the mouse and keyboard before it."""

    def __init__(self, driver: Any, address: str, downloads: Path) -> None:
        self.driver, self.address, self.downloads = driver, address, downloads
        downloads.mkdir(exist_ok=True)
        driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        driver.get(address)
        self.until("document.body.dataset.ready === 'true'", "it never was ready")

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def until(self, expression: str, what: str) -> None:
        until(lambda: self.run(f"return {expression}"), f"{what}: {self.text('notice')}")

    def text(self, name: str) -> str:
        return str(self.run(f"return document.getElementById('{name}').textContent"))

    def click(self, name: str) -> None:
        self.driver.find_element("id", name).click()

    def is_enabled(self, name: str) -> bool:
        return not self.run(f"return document.getElementById('{name}').matches(':disabled')")

    def give(self, *paths: Path, to: str = "photo-file") -> None:
        self.driver.find_element("id", to).send_keys("\n".join(map(str, paths)))

    def open(self, *paths: Path) -> None:
        self.give(*paths)
        self.until(f"document.getElementById('photo-name').textContent.startsWith({paths[0].name!r})", "not opened")

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def press_with_control(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def drag(self, *places: tuple[float, float]) -> None:
        """Paint from place to place, each as shares of the stage's width and height, from its middle."""
        from selenium.webdriver.common.action_chains import ActionChains

        view = self.driver.find_element("id", "view")
        size = view.size
        points = [(round(x * size["width"]), round(y * size["height"])) for x, y in places]
        chain = ActionChains(self.driver, duration=20).move_to_element_with_offset(view, *points[0]).click_and_hold()
        for point in points[1:]:
            chain = chain.move_to_element_with_offset(view, *point)
        chain.release().perform()

    def seen(self) -> Any:
        """The stage without the brush, as pixels [H, W, 4] of the screen."""
        from base64 import b64decode
        from io import BytesIO

        self.run("document.getElementById('view').dispatchEvent(new PointerEvent('pointerleave'))")
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        url = self.run("return document.getElementById('view').toDataURL()")
        return np.asarray(Image.open(BytesIO(b64decode(url.partition(",")[2]))))

    def fill(self, by: str = "fill") -> None:
        """Until it is filled."""
        assert self.is_enabled("fill")
        self.press("f") if by == "key" else self.click("fill")
        done = "document.getElementById('working').hidden && document.getElementById('fill').disabled"
        self.until(done, "it never was filled")

    def download(self, button: str = "download", kind: str = "PNG") -> Any:
        """The file's pixels, [H, W, 3]."""
        path = self.download_file(button)
        with Image.open(path) as image:
            assert image.format == kind
            pixels = np.asarray(image)[:, :, :3]
        path.unlink()
        return pixels

    def download_file(self, button: str) -> Path:
        self.click(button)
        found = [*until(lambda: [*self.downloads.glob("*.png"), *self.downloads.glob("*.jpg")], "nothing came")]
        assert len(found) == 1
        return found[0]

    def said(self) -> list[str]:
        return complaints(self.driver, self.address)
