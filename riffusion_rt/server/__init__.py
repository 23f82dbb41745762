"""The runtime over HTTP: jobs, live sessions and the page, all of them on one model whose UNet they share."""
