"""Kinds of rows, a file each: which settings a row has, what it needs as input, and how it starts."""

from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.depth_to_image import DepthToImage
from sdbatch.diffusion.tasks.image_to_image import ImageToImage
from sdbatch.diffusion.tasks.image_variation import ImageVariation
from sdbatch.diffusion.tasks.inpainting import Inpainting
from sdbatch.diffusion.tasks.instruct_edit import InstructEdit
from sdbatch.diffusion.tasks.task import Need, Run, Start, Task
from sdbatch.diffusion.tasks.text_to_image import TextToImage
from sdbatch.diffusion.tasks.upscaling import Upscaling
from sdbatch.fields import Declares

__all__ = ["ENGINE_TASKS", "TASKS", "Need", "Run", "Start", "Task", "task_named", "task_of"]

_TASKS = (
    TextToImage(),
    ImageToImage(),
    Inpainting(),
    DepthToImage(),
    Upscaling(),
    ImageVariation(),
    InstructEdit(),
)
# Those that the engine makes.
ENGINE_TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
# Those that tables and options know.
TASKS: list[Declares] = list(_TASKS)


def task_named(name: str) -> Task:
    """The task of that name; one that the engine does not know is text to image to it."""
    return ENGINE_TASKS.get(name, ENGINE_TASKS["text-to-image"])


def task_of(request: Request) -> Task:
    """What the row is: its own task, or text to image if it is given no picture and its task does without."""
    task = task_named(request.task)
    return task if task.needs_picture or request.extra.get("image") is not None else task_named("text-to-image")
