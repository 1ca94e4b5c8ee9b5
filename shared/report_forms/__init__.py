"""How figures of cost are shown, in reports and on the site: words, amounts and charts."""
