"""Every configuration key with its meaning, unit and default.

A configuration file takes these, changes what differs and returns them. They are locked
afterwards: a key that is not here cannot be set.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from attnseg.data.classification_transforms import INTERPOLATIONS
from attnseg.infer import MODES
from attnseg.models import zoo
from attnseg.objectives.losses import NORMALISE
from attnseg.objectives.segmentation import PIXEL_LOSSES, REGION_LOSSES
from attnseg.training.guard import MODES as NONFINITE
from attnseg.training.optim import OPTIMIZERS
from attnseg.training.schedule import SCHEDULES


def _fields(part: zoo.Part) -> ConfigDict:
    """The fields of a backbone or head, unset; None leaves the published value in place."""
    fields = ConfigDict()
    for name, value in zoo.part_fields(part).items():
        fields[name] = placeholder(type(value))
    return fields


def get_config(model: str) -> ConfigDict:
    """All keys for training `model` (a name of `attnseg.list_models()`)."""
    spec = zoo.find_spec(model)
    c = ConfigDict()
    c.name = model  # of the run; its default folder is runs/NAME
    c.seed = 0  # of initialisation, data order, augmentation and dropout

    c.model = ConfigDict()
    c.model.name = model  # a name of attnseg.list_models()
    c.model.dtype = "float32"  # of the computation: float32 | bfloat16
    c.model.backbone = _fields(spec.backbone)  # fields of the backbone that differ
    c.model.head = _fields(spec.head)  # fields of the head that differ
    c.model.aux = spec.aux  # train with an auxiliary head on the last stage but one
    c.model.aux_head = _fields(zoo.AUX_HEAD)  # fields of that head that differ

    c.init = ConfigDict()
    c.init.weights = placeholder(str)  # weight file to start from; None starts at random

    c.data = ConfigDict()
    c.data.name = "shapes"  # a name of attnseg.data.DATASETS, or "folder": a folder of your own
    c.data.root = placeholder(str)  # folder with the original files, where the data set needs one
    c.data.classes = placeholder(str)  # of a folder: class list; None: ROOT/classes.txt or .json
    c.data.split_ratios = (0.8, 0.1, 0.1)  # of a folder not divided into splits: train, val, test
    c.data.image_suffix = ""  # of a folder: ending of image names, e.g. "_leftImg8bit.png"
    c.data.label_suffix = ""  # of a folder: ending of label names, e.g. "_gtFine_labelIds.png"
    c.data.prepared = placeholder(str)  # where prepared copies live; None: TFDS's own folder
    c.data.batch_size = 16  # examples per step over all devices and parts
    c.data.resize = placeholder(tuple)  # (h, w) the image is fitted into before `scale`
    c.data.keep_ratio = True  # False stretches to `resize`, in evaluation to `eval.resize`
    c.data.scale = (0.5, 2.0)  # range of the random factor on the image's size
    c.data.scale_step = 0.0  # from one factor to the next; 0: any factor of the range
    c.data.crop = (512, 512)  # (h, w) of the training image
    c.data.pad = True  # fill crops that reach over the image; False refuses them
    c.data.cat_max_ratio = 0.75  # largest share of one class in a crop, tried 10 times
    c.data.flip = 0.5  # probability of a horizontal flip
    c.data.flip_vertical = 0.0  # of segmentation: probability of a vertical flip
    c.data.photometric = True  # random brightness, contrast, saturation and hue
    c.data.workers = 0  # processes that read and transform; 0: threads of this one
    c.data.cache = "none"  # decoded: keep decoded images and masks on disk, for large PNGs | none
    c.data.cache_gb = 20.0  # of decoded: largest size on disk, for each split, in 10^9 bytes
    c.data.prefetch = 4  # batches made ahead, by each worker if there are any
    c.data.scan = 1_000_000  # label files of a split checked before training; 0 checks none
    c.data.on_error = "raise"  # records that cannot be read: raise (stop) | skip (take the next)
    c.data.max_skipped = 10  # of skip: records that may fail; in evaluation, of each process

    # Augmentation of classification, named as in timm. Flips: data.flip; size: data.crop.
    c.augment = ConfigDict()
    c.augment.rrc_scale = (0.08, 1.0)  # share of the image that a random resized crop shows
    c.augment.rrc_ratio = (0.75, 4 / 3)  # width by height of that part
    c.augment.rotation = 0.0  # greatest random turn in degrees; of segmentation too
    c.augment.interpolation = "bicubic"  # of crops, evaluation included: bilinear | bicubic
    c.augment.randaugment = placeholder(str)  # e.g. rand-m9-mstd0.5-inc1; None: none
    c.augment.color_jitter = 0.0  # largest change of brightness, contrast and saturation
    c.augment.erasing = 0.0  # chance that an image loses a box to noise
    c.augment.mixup = 0.0  # parameter of the Beta distribution of MixUp's shares; 0: none
    c.augment.cutmix = 0.0  # the same of CutMix
    c.augment.switch = 0.5  # chance that a batch gets CutMix where both are on

    c.loss = ConfigDict()
    c.loss.name = "cross_entropy"  # of segmentation: cross_entropy | ohem | focal | dice | lovasz
    c.loss.dice_weight = 0.0  # factor of a Dice loss that is added; 0: none
    c.loss.lovasz_weight = 0.0  # factor of a Lovasz-softmax loss that is added; 0: none
    c.loss.normalise = "valid"  # pixels the sum is divided by: valid | all (mmsegmentation)
    c.loss.ohem_threshold = 0.7  # of ohem: a pixel is hard up to this probability of its label
    c.loss.ohem_keep = 100_000  # of ohem: pixels kept at least, for each example
    c.loss.focal_gamma = 2.0  # of focal: exponent
    c.loss.class_weights = placeholder(tuple)  # one factor per class
    c.loss.label_smoothing = 0.0  # share of the target spread over all classes
    c.loss.aux_weight = 0.4  # factor of an auxiliary head's loss

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # adamw | adam (decay added to the gradient) | sgd
    c.optim.lr = 6e-5  # peak learning rate
    c.optim.betas = (0.9, 0.999)  # of adamw and adam
    c.optim.momentum = 0.9  # of sgd; 0: none
    c.optim.nesterov = False  # of sgd: look ahead along the momentum
    c.optim.weight_decay = 0.01  # of the parameters whose rule says so
    c.optim.clip_norm = 0.0  # largest global gradient norm; 0 does not clip
    # (regex over parameter names, learning-rate factor, weight decay?); the first match counts
    c.optim.rules = ((".*", 1.0, True),)
    c.optim.layer_decay = 1.0  # factor on the rate from each backbone block to the one before it

    c.schedule = ConfigDict()
    c.schedule.name = "poly"  # poly | cosine | step | constant
    c.schedule.power = 1.0  # of poly
    c.schedule.every = 10_000  # of step: steps from one drop of the rate to the next
    c.schedule.gamma = 0.1  # of step: factor on the rate at each drop
    c.schedule.warmup_steps = 1500  # steps in which the rate rises linearly
    c.schedule.warmup_ratio = 1e-6  # factor on the rate at step 0
    c.schedule.end_lr = 0.0  # rate at the end

    c.train = ConfigDict()
    c.train.steps = 160_000  # updates
    c.train.epochs = placeholder(float)  # passes over the data; goes before `steps` when set
    c.train.accumulate = 1  # parts a batch is worked through in, to save memory
    c.train.ema = 0.0  # decay of the averaged parameters that are then evaluated; 0: none
    c.train.nonfinite = "raise"  # loss or gradient not finite: raise (stop) | skip (no update)
    c.train.max_nonfinite = 10  # of skip: updates of the whole run that may be left out

    c.eval = ConfigDict()
    c.eval.every = 4000  # steps
    c.eval.split = "val"  # evaluated during training
    c.eval.batch_size = 16  # images, or windows, at once; rounded up to a multiple of the devices
    c.eval.mode = "whole"  # whole: the image in one piece | slide: in windows
    c.eval.window = placeholder(tuple)  # of slide: (h, w) of a window; None: data.crop
    c.eval.stride = placeholder(tuple)  # of slide: (h, w) to the next; None: 2/3 of the window
    c.eval.scales = (1.0,)  # sizes of the image whose probabilities are averaged
    c.eval.flip = False  # average over each size's mirror image too
    c.eval.resize = placeholder(tuple)  # (h, w) the image is fitted into; labels keep their size
    c.eval.multiple = 1  # sides are stretched up to multiples of this, after `resize`
    c.eval.bucket = 1  # sides are filled up to multiples of this, so that sizes share programs
    c.eval.boundary = 0.02  # distance of boundary IoU as a share of the diagonal; 0: none
    c.eval.crop_pct = 0.875  # of classification: side of the central crop by shorter side
    c.eval.overlays = 4  # pictures drawn after each evaluation

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 4000  # steps, besides one after each evaluation
    c.checkpoint.keep = 2  # latest ones kept, besides the best

    c.log = ConfigDict()
    c.log.every = 50  # steps

    c.mesh = ConfigDict()
    c.mesh.data = -1  # devices that split the batch; -1: all that are left
    c.mesh.fsdp = 1  # devices that split the parameters
    return c


CHOICES: dict[str, tuple[Any, ...]] = {
    "model.dtype": tuple(zoo.DTYPES),
    "loss.name": (*PIXEL_LOSSES, *REGION_LOSSES),
    "loss.normalise": NORMALISE,
    "augment.interpolation": tuple(INTERPOLATIONS),
    "optim.name": OPTIMIZERS,
    "schedule.name": SCHEDULES,
    "data.cache": ("none", "decoded"),
    "data.on_error": ("raise", "skip"),
    "eval.mode": MODES,
    "train.nonfinite": NONFINITE,
}
# Keys that must be at least this.
MINIMA: dict[str, float] = {
    "seed": 0,
    "data.batch_size": 1,
    "data.workers": 0,
    "data.cache_gb": 0.0,
    "data.prefetch": 1,
    "data.scan": 0,
    "data.max_skipped": 1,
    "loss.aux_weight": 0.0,
    "loss.dice_weight": 0.0,
    "loss.lovasz_weight": 0.0,
    "loss.ohem_keep": 0,
    "loss.focal_gamma": 0.0,
    "augment.rotation": 0.0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "optim.lr": 0.0,
    "optim.clip_norm": 0.0,
    "optim.weight_decay": 0.0,
    "schedule.warmup_steps": 0,
    "schedule.every": 1,
    "train.steps": 1,
    "train.accumulate": 1,
    "train.max_nonfinite": 1,
    "eval.every": 1,
    "eval.batch_size": 1,
    "eval.multiple": 1,
    "eval.bucket": 1,
    "mesh.fsdp": 1,
    "schedule.warmup_ratio": 0.0,
    "schedule.end_lr": 0.0,
    "eval.overlays": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "log.every": 1,
}
# Keys whose value is a share.
SHARES = (
    "augment.color_jitter",
    "augment.erasing",
    "augment.switch",
    "eval.crop_pct",
    "eval.boundary",
    "data.flip",
    "data.flip_vertical",
    "data.cat_max_ratio",
    "loss.label_smoothing",
    "loss.ohem_threshold",
    "optim.layer_decay",
    "optim.momentum",
    "schedule.gamma",
    "train.ema",
)
