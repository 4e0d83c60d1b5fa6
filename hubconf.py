"For `torch.hub.load('p3m-nb/p3m_nb', 'create_model', 'p3mnet_lite', pretrained=True)`: the networks of p3m_nb by name."
dependencies = ['torch', 'numpy', 'PIL', 'cv2', 'safetensors', 'fastcore']

from p3m_nb.registry import list_models  # noqa: E402, F401
from p3m_nb.weights import create_model  # noqa: E402, F401


def p3mnet_lite(pretrained=True):
    "The light P3M-Net, by default with the weights of the package."
    return create_model('p3mnet_lite', pretrained=pretrained)
