"""What reports and statements look like: JSON, CSV, XLSX and HTML. Pure: equal reports are equal bytes."""
