"""The models by name, and the cases that each is asked for."""

from .texts import FEW, TEXTS

MODELS = {}


def model(name: str, stands_for: str, pooling: str, special: str, runner: str = "sentence_transformers", stored="f32"):
    """Registers the function that writes the directory `name` and returns its cases."""

    def register(make):
        MODELS[name] = dict(
            name=name, stands_for=stands_for, pooling=pooling, special=special, runner=runner, stored=stored, make=make
        )
        return make

    return register


def cases(prompts=(), prompt: str = "passage: ", dims=(), length: int = 9) -> list:
    out = [dict(name="plain", texts=TEXTS)]
    out += [dict(name=f"prompt_name {name}", texts=FEW, prompt_name=name) for name in prompts]
    out.append(dict(name="prompt string", texts=FEW, prompt=prompt))
    out.append(dict(name=f"max_length {length}", texts=FEW, max_length=length))
    out += [dict(name=f"truncate_dim {dim}", texts=FEW[:2], truncate_dim=dim, normalize=True) for dim in dims]
    return out
