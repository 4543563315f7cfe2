"""Tasks, one file each: the settings of a row, its input pictures, and how it starts."""

from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.depth_to_image import DepthToImage
from sdbatch.diffusion.tasks.image_to_image import ImageToImage
from sdbatch.diffusion.tasks.image_variation import ImageVariation
from sdbatch.diffusion.tasks.inpainting import Inpainting
from sdbatch.diffusion.tasks.instruct_edit import InstructEdit
from sdbatch.diffusion.tasks.task import Need, Run, Start, Task, Unusable
from sdbatch.diffusion.tasks.text_to_image import TextToImage
from sdbatch.diffusion.tasks.upscaling import Upscaling
from sdbatch.fields import Declares

__all__ = ["ENGINE_TASKS", "TASKS", "Need", "Run", "Start", "Task", "Unusable", "task_named", "task_of"]

_TASKS = (
    TextToImage(),
    ImageToImage(),
    Inpainting(),
    DepthToImage(),
    Upscaling(),
    ImageVariation(),
    InstructEdit(),
)
# The tasks that the engine runs.
ENGINE_TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
# The tasks that tables and options accept.
TASKS: list[Declares] = list(_TASKS)


def task_named(name: str) -> Task:
    """The task of that name; unknown names give text to image."""
    return ENGINE_TASKS.get(name, ENGINE_TASKS["text-to-image"])


def task_of(request: Request) -> Task:
    """The row's task; text to image if the row has no picture and its task allows this."""
    task = task_named(request.task)
    return task if task.needs_picture or request.extra.get("image") is not None else task_named("text-to-image")
