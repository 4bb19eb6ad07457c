"""What all pages share: one self-contained HTML file, its charts, its pieces of pictures.

`page` fills a template, `charts` draws SVG, `before_after` cuts pieces of pictures, `table` writes report.parquet,
`metric_text` writes numbers as people read them. Must know nothing of one job's page. Start with `page.render`.
"""
