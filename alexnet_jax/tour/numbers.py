"""Numbers as readers write them."""

SUPERSCRIPTS = str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹')


class Numbers:
    """Formats numbers for a language.

    Vietnamese uses the comma for decimals, but the course notes use the point: so does the page,
    and separates thousands by narrow spaces in Vietnamese, by commas in English.
    """

    def __init__(self, language: str):
        self._thousands = '\u202f' if language == 'vi' else ','

    def count(self, number: int) -> str:
        """Return 62378344 as '62,378,344'."""
        return f'{number:,}'.replace(',', self._thousands)

    def num(self, value: float, digits: int = 4) -> str:
        """Return a number in so many digits: '−0.002103', '1.651·10⁻⁷'."""
        text = f'{value:.{digits}g}'
        if 'e' in text:
            number, _, power = text.partition('e')
            if value and 10 <= abs(value) < 1e9:
                text = self.count(round(value))
            else:
                text = f'{number}·{self.power_of_ten(int(power))}'
        return text.replace('-', '−')

    def power_of_ten(self, power: int) -> str:
        """Return '10⁻⁷'."""
        return f'10{str(power).translate(SUPERSCRIPTS)}'

    def paren(self, value: float) -> str:
        """Return a number that follows a sign: a negative one in parentheses."""
        text = self.num(value)
        return f'({text})' if text.startswith('−') else text

    def signed(self, value: float) -> str:
        """Return a number with its sign and one decimal: '+3.1'."""
        return f'{value:+.1f}'.replace('-', '−')

    def percent(self, share: float) -> str:
        """Return '12.3%'; a share too small for that as a number: '1.7·10⁻⁷'."""
        if 0 < share < 5e-5:
            return self.num(share, 2)
        return f'{share:.2%}' if share < 0.9995 or share == 1 else f'{share:.4%}'
