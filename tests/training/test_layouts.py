"""1, 2 and 8 devices, data parallel and FSDP: one training."""

import json

import device_layouts
import numpy as np
import overnight
import pytest
from children import Children


@pytest.mark.slow
@pytest.mark.parametrize("family", device_layouts.FAMILIES)
def test_devices_do_not_matter(family, tmp_path):
    data = overnight.make_data(tmp_path)
    program = overnight.ROOT / "tests" / "training" / "device_layouts.py"
    # Optimised, as for users: XLA's plain sums round more, and Adam makes steps of the rounding of
    # gradients that are almost zero.
    optimised = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    children = Children(overnight.MARK)
    status, output = children.run(program, family, data, devices=8, patience=1200, **optimised)
    assert status == 0, output
    results = json.loads(output.split("RESULTS ")[1])
    alone = results["1"]
    for layout, found in results.items():
        np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5, err_msg=layout)
        print(f"{family:10} {layout:10} {found['losses']}")
        assert (found["split"] > 0) == ("fsdp" in layout), layout
        for name, score in found["scores"].items():
            np.testing.assert_allclose(score, alone["scores"][name], atol=1e-4, err_msg=name)
