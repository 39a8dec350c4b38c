"""Products of few rows: the library's results, in whatever way they are taken."""

import pytest
import torch
from torch import nn

from early_exit import products


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 1), (2, 2), (7, 1), (9, 1), (16, 1), (40, 1)])
def test_product_is_that_of_double_precision(threads, shape, bias):
    torch.manual_seed(len(shape))
    layer = nn.Linear(320, 400, bias=bias)
    x = torch.randn(*shape, 320)
    exact = layer.double()(x.double())
    y = products.linear(x, layer.float().weight, layer.bias)
    assert y.shape == (*shape, 400) and y.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("rows", "weight"), [(4, (320, 400)), (4, (8, 8)), (200, (320, 400))])
def test_only_few_rows_with_a_large_weight_go_the_other_way(rows, weight, monkeypatch):
    torch.set_num_threads(2)
    taken = []
    monkeypatch.setattr(torch, "mm", lambda *args, mm=torch.mm: taken.append(1) or mm(*args))
    products.linear(torch.randn(rows, weight[1]), torch.randn(weight))
    assert bool(taken) == (rows == 4 and weight == (320, 400))


def test_a_module_is_as_the_library_made_it_while_compared_and_ours_again_after():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)), nn.LayerNorm(2))
    names = list(products.ours(model).state_dict())
    layers = [model[0], model[1][0]]
    assert [type(layer) for layer in layers] == [products.Linear] * 2
    with pytest.raises(RuntimeError, match="within"), products.as_loaded(model):
        assert [type(layer) for layer in layers] == [nn.Linear] * 2
        raise RuntimeError("within")
    assert [type(layer) for layer in layers] == [products.Linear] * 2
    assert list(model.state_dict()) == names
