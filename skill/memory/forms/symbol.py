"""Integers that remember where they came from: a value and a polynomial over named symbols. The ledger runs on them
unchanged, and what it adds up becomes a formula."""

from __future__ import annotations

from typing import Any

Monomial = tuple[str, ...]
Poly = dict[Monomial, float]


class Sym(int):
    """An int whose polynomial is in `poly`; arithmetic keeps both."""

    poly: Poly

    def __new__(cls, value: int, poly: Poly) -> Sym:
        self = super().__new__(cls, value)
        self.poly = poly
        return self

    @classmethod
    def named(cls, name: str, value: int) -> Sym:
        return cls(value, {(name,): 1.0})

    def __add__(self, other: Any) -> Sym:
        out = dict(self.poly)
        for key, value in poly_of(other).items():
            out[key] = out.get(key, 0.0) + value
        return Sym(int(self) + int(other), {k: v for k, v in out.items() if v})

    __radd__ = __add__

    def __neg__(self) -> Sym:
        return Sym(-int(self), {k: -v for k, v in self.poly.items()})

    def __sub__(self, other: Any) -> Sym:
        return self + (-other if isinstance(other, Sym) else Sym(-other, poly_of(-other)))

    def __rsub__(self, other: Any) -> Sym:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return Sym(round(int(self) * other), {k: v * other for k, v in self.poly.items()})
        out: Poly = {}
        for a, x in self.poly.items():
            for b, y in poly_of(other).items():
                key = tuple(sorted(a + b))
                out[key] = out.get(key, 0.0) + x * y
        return Sym(int(self) * int(other), out)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        """Exact in the polynomial: a remainder of the integers is a fraction of the formula. Divisors are numbers or
        single monomials."""
        divisor = poly_of(other)
        if len(divisor) != 1:
            return int(self) // int(other)
        ((names, scale),) = divisor.items()
        out: Poly = {}
        for key, value in self.poly.items():
            left = list(key)
            for name in names:
                if name not in left:
                    return int(self) // int(other)
                left.remove(name)
            out[tuple(left)] = value / scale
        return Sym(int(self) // int(other), out)

    def __hash__(self) -> int:
        return hash(int(self))


def poly_of(x: Any) -> Poly:
    """The polynomial of a Sym, or the constant of a number."""
    if isinstance(x, Sym):
        return x.poly
    return {(): float(x)} if x else {}
