"""Parameter counts of every model, equal to the published ones (sources beside each table)."""

import jax
import jax.numpy as jnp
import pytest

import attnseg
from attnseg.core.tree import count

# (model, classes, parameters); measured from the reference implementations.
CLASSIFIERS = [
    *(("mit_b0", k, n) for k, n in ((1000, 3_576_392), (10, 3_321_962))),
    *(("mit_b1", k, n) for k, n in ((1000, 13_664_424), (10, 13_156_554))),
    *(("mit_b2", k, n) for k, n in ((1000, 24_709_288), (10, 24_201_418))),
    *(("mit_b3", k, n) for k, n in ((1000, 44_585_128), (10, 44_077_258))),
    *(("mit_b4", k, n) for k, n in ((1000, 61_355_688), (10, 60_847_818))),
    *(("mit_b5", k, n) for k, n in ((1000, 81_956_008), (10, 81_448_138))),
    ("mscan_t", 1000, 4_160_584),
    ("mscan_s", 1000, 13_963_176),
    ("mscan_b", 1000, 26_790_824),
    ("mscan_l", 1000, 45_149_864),
    *(("resnet18", k, n) for k, n in ((1000, 11_689_512), (10, 11_181_642))),
    *(("resnet34", k, n) for k, n in ((1000, 21_797_672), (10, 21_289_802))),
    *(("resnet50", k, n) for k, n in ((1000, 25_557_032), (10, 23_528_522))),
    *(("resnet101", k, n) for k, n in ((1000, 44_549_160), (10, 42_520_650))),
    *(("resnet152", k, n) for k, n in ((1000, 60_192_808), (10, 58_164_298))),
    ("resnet50c", 1000, 25_576_264),
    *(("conv2former_n", k, n) for k, n in ((1000, 14_992_840), (10, 13_724_650))),
    *(("conv2former_t", k, n) for k, n in ((1000, 26_697_204), (10, 25_429_014))),
    *(("conv2former_s", k, n) for k, n in ((1000, 50_032_692), (10, 48_764_502))),
    *(("conv2former_b", k, n) for k, n in ((1000, 90_029_112), (10, 88_760_922))),
    *(("conv2former_l", k, n) for k, n in ((1000, 198_893_736), (10, 197_625_546))),
    # The post's own table says 8,847,978, which its code does not give.
    ("conv2former_n_cifar", 10, 8_847_498),
    *(("swin_t", k, n) for k, n in ((1000, 28_288_354), (10, 27_527_044))),
]
# At 224, where the position tables have their published size.
WITH_TABLES = [
    ("botnet18", 8_550_440),
    ("botnet34", 17_089_064),
    ("botnet50", 20_852_008),
    ("botnet101", 39_844_136),
    ("botnet152", 55_487_784),
    ("botnet_s1_50", 20_859_176),
    ("botnet_s1_101", 39_851_304),
    ("botnet_s1_152", 55_494_952),
]
SEGMENTERS = [
    *(("segformer_b0", k, n) for k, n in ((150, 3_752_694), (19, 3_719_027))),
    *(("segformer_b1", k, n) for k, n in ((150, 13_715_798), (19, 13_682_131))),
    *(("segformer_b2", k, n) for k, n in ((150, 27_461_974), (19, 27_361_235))),
    *(("segformer_b3", k, n) for k, n in ((150, 47_337_814), (19, 47_237_075))),
    *(("segformer_b4", k, n) for k, n in ((150, 64_108_374), (19, 64_007_635))),
    *(("segformer_b5", k, n) for k, n in ((150, 84_708_694), (19, 84_607_955))),
    *(("segnext_t", k, n) for k, n in ((150, 4_263_414), (19, 4_229_747), (171, 4_268_811))),
    *(("segnext_s", k, n) for k, n in ((150, 13_932_886), (19, 13_899_219), (171, 13_938_283))),
    *(("segnext_b", k, n) for k, n in ((150, 27_636_310), (19, 27_569_107), (171, 27_647_083))),
    *(("segnext_l", k, n) for k, n in ((150, 48_926_550), (19, 48_792_275), (171, 48_948_075))),
]
# With and without the auxiliary head.
BASELINES = [
    ("ccnet_r50", 19, 49_826_055, 47_461_364),
    ("ccnet_r101", 19, 68_818_183, 66_453_492),
    ("ccnet_r50", 150, 49_926_925, 47_528_567),
    ("ccnet_r101", 150, 68_919_053, 66_520_695),
    ("fcn_r50", 19, 49_497_734, 47_133_043),
    ("fcn_r101", 19, 68_489_862, 66_125_171),
    ("pspnet_r50", 19, 48_975_494, 46_610_803),
    ("pspnet_r101", 19, 67_967_622, 65_602_931),
    ("deeplabv3plus_r50", 19, 43_589_878, 41_225_187),
    ("deeplabv3plus_r101", 19, 62_582_006, 60_217_315),
    ("danet_r50", 19, 49_846_574, 47_481_883),
    ("danet_r101", 19, 68_838_702, 66_474_011),
    ("emanet_r50", 19, 42_349_958, 39_985_267),
    ("emanet_r101", 19, 61_342_086, 58_977_395),
    ("nonlocal_r50", 19, 50_023_814, 47_659_123),
    ("nonlocal_r101", 19, 69_015_942, 66_651_251),
    ("upernet_r50", 19, 66_415_238, 64_050_547),
    ("upernet_r101", 19, 85_407_366, 83_042_675),
    ("upernet_swin_t", 150, 59_941_862, 59_018_064),
]


def parts(name, classes, side=64, **fields):
    """Parameters by part of the model."""
    model = attnseg.create_model(name, classes, **fields)
    image = jnp.zeros((1, side, side, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    return {part: count(tree) for part, tree in variables["params"].items()}


@pytest.mark.parametrize(("name", "classes", "expected"), CLASSIFIERS + SEGMENTERS)
def test_counts(name, classes, expected):
    assert sum(parts(name, classes).values()) == expected


@pytest.mark.parametrize(("name", "expected"), WITH_TABLES)
def test_counts_with_position_tables(name, expected):
    assert sum(parts(name, 1000, 224).values()) == expected


def test_tables_grow_with_the_image():
    assert sum(parts("botnet50", 1000, 1024).values()) == 20_903_208


@pytest.mark.parametrize(("name", "classes", "with_aux", "without"), BASELINES)
def test_counts_of_baselines(name, classes, with_aux, without):
    found = parts(name, classes)
    assert sum(found.values()) == with_aux
    assert sum(found.values()) - found["aux_head"] == without
